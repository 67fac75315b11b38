"""Flow training learns, drops prompts, and goes on from a checkpoint as if never stopped."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from darkroom.model_runner.pocket import curriculum, flow, networks

STAGE = curriculum.Stage(
    until=60,
    grid_px=16,
    scenes=16,
    scenes_seed=1,
    times_centre=0.7,
    times_spread=1.2,
    rate_peak=1.2e-3,
    rate_from=0,
    rate_until=500,
    warmup=10,
)


def ignore(step: int, steps: int, value: float) -> None:
    """Report nothing."""


@pytest.fixture
def small_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "BATCH", 8)


def lessons(nets: networks.Networks) -> flow.Lessons:
    return flow.prepare(nets, STAGE, report=ignore)


def test_lessons_are_packed_as_the_pipeline_packs(fresh: networks.Networks) -> None:
    prepared = lessons(fresh)
    tokens = (networks.LATENT_SIZE // 2) ** 2
    assert prepared.latents.shape == (16, tokens, networks.LATENT_CHANNELS * 4)
    assert prepared.clip_tokens.shape == prepared.t5_tokens.shape == (16, networks.TOKENS_MAX)


@pytest.mark.usefixtures("small_batch")
def test_learning_lowers_the_loss_and_the_averages_are_used(fresh: networks.Networks, tmp_path: Path) -> None:
    losses, start = list[float](), fresh.transformer.x_embedder.weight.detach().clone()

    def reporter(label: str) -> Callable[[int, int, float], None]:
        return lambda step, steps, loss: losses.append(loss) if label == "transformer" else None

    flow.learn(fresh, [STAGE], seed=0, checkpoint=tmp_path / "flow.safetensors", reporter=reporter)
    assert len(losses) == 60
    assert sum(losses[-10:]) < 0.97 * sum(losses[:10])
    assert not torch.equal(fresh.transformer.x_embedder.weight, start)


@pytest.mark.usefixtures("small_batch")
def test_a_stopped_training_goes_on_as_if_it_had_not_been(fresh: networks.Networks, tmp_path: Path) -> None:
    prepared, path = lessons(fresh), tmp_path / "flow.safetensors"
    training = flow.Training(fresh, seed=0)
    for _ in range(3):
        training.learn_step(STAGE, prepared)
    training.save(path)
    straight = [training.learn_step(STAGE, prepared) for _ in range(2)]
    other = networks.build(seed=9)._replace(vae=fresh.vae)
    resumed = flow.Training(other, seed=0)
    resumed.load(path)
    assert resumed.step == 3
    assert [resumed.learn_step(STAGE, prepared) for _ in range(2)] == straight
    assert all(torch.equal(a, b) for a, b in zip(training.averages, resumed.averages, strict=True))


def test_text_encoders_are_taught_too(fresh: networks.Networks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "BATCH", 4)
    before = [fresh.text_encoder.get_input_embeddings().weight.clone(), fresh.text_encoder_2.shared.weight.clone()]
    training, prepared = flow.Training(fresh, seed=0), lessons(fresh)
    for _ in range(4):
        training.learn_step(STAGE, prepared)
    after = [fresh.text_encoder.get_input_embeddings().weight, fresh.text_encoder_2.shared.weight]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
