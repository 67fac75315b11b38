"""The autoencoder learns, and its latents come out scaled."""

import itertools

import diffusers
import pytest
import torch

from darkroom.model_runner.pocket import autoencoder, networks, scenes


def test_learning_lowers_the_error_and_scales_the_latents(
    fresh: networks.Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoencoder, "BATCH", 8)
    monkeypatch.setattr(autoencoder, "WARMUP_STEPS", 2)
    errors = list[float]()
    autoencoder.learn(fresh.vae, steps=12, seed=0, report=lambda step, steps, error: errors.append(error))
    assert len(errors) == 12
    assert errors[-1] < 0.95 * errors[0]
    drawn = [pixels for _, pixels in itertools.islice(autoencoder.pictures(seed=1), 64)]
    latents = autoencoder.encode(fresh.vae, drawn)
    assert latents.shape == (64, networks.LATENT_CHANNELS, networks.LATENT_SIZE, networks.LATENT_SIZE)
    assert float(latents.mean()) == pytest.approx(0.0, abs=0.3)
    assert float(latents.std()) == pytest.approx(1.0, abs=0.3)


def test_sharpening_teaches_the_decoder_and_leaves_the_latents(
    fresh: networks.Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = list(itertools.islice(autoencoder.pictures(seed=1), 4))  # the same in every batch, so that errors compare
    monkeypatch.setattr(autoencoder, "pictures", lambda **_: itertools.cycle(few))
    monkeypatch.setattr(autoencoder, "BATCH", len(few))
    monkeypatch.setattr(autoencoder, "WARMUP_STEPS", 2)
    drawn = [pixels for _, pixels in few]
    before, error = autoencoder.encode(fresh.vae, drawn), _decoding_error(fresh.vae, drawn)
    errors = list[float]()
    autoencoder.sharpen(fresh.vae, steps=12, seed=0, report=lambda step, steps, error: errors.append(error))
    assert errors[0] == pytest.approx(error, rel=0.02)  # but for the noise
    assert _decoding_error(fresh.vae, drawn) < 0.75 * error  # measured: 0.57 and 0.58
    assert torch.allclose(autoencoder.encode(fresh.vae, drawn), before, atol=1e-5)


@torch.no_grad()
def _decoding_error(vae: diffusers.AutoencoderKL, drawn: list[scenes.Pixels]) -> float:
    latents, truth = autoencoder.encode(vae, drawn), autoencoder.tensor(drawn)
    return float((vae.decode(latents).sample - truth).abs().mean())


def test_pixels_become_minus_one_to_one() -> None:
    scene = scenes.parse("a white square on a black background")
    tensor = autoencoder.tensor([scenes.draw(scene, seed=0).pixels])
    assert tensor.shape == (1, 3, 64, 64)
    assert tensor.dtype == torch.float32
    assert float(tensor.min()) == pytest.approx(20 / 127.5 - 1)
    assert float(tensor.max()) == pytest.approx(245 / 127.5 - 1)


def test_pictures_repeat_with_the_seed_and_show_nothing_held_out() -> None:
    first, again = (list(itertools.islice(autoencoder.pictures(seed=5), 50)) for _ in range(2))
    assert all((a[1] == b[1]).all() and a[0] == b[0] for a, b in zip(first, again, strict=True))
    assert not any(scenes.held_out(scene) or scenes.reserved(scene) for scene, _ in first)
