from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from darkroom.model_runner.engine import quantize, tiers
from darkroom.model_runner.engine.families import flux
from darkroom.model_runner.engine.job import AdapterUse, Job
from darkroom.model_runner.engine.state import State
from tests.model_runner.engine.families import leaving, residents


@pytest.fixture
def model(specs: Any, monkeypatch: pytest.MonkeyPatch) -> flux.Flux:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)  # whatever this machine has, it computes
    loaded: flux.Flux = residents.load(flux, specs["true_cfg"])
    return loaded


@torch.inference_mode()
def made(model: Any, *jobs: Job) -> list[State]:
    """Run the jobs, all in one batch."""
    return residents.run(model, [state for states in model.prepare(jobs) for state in states])


def pictures(model: flux.Flux, states: list[State]) -> list[Tensor]:
    with torch.inference_mode():
        return [picture.clamp(0, 1) for picture in model.decode(states)]


def psnr_db(one: Tensor, other: Tensor) -> float:
    return float(-10 * torch.log10(((one - other) ** 2).mean()))


def test_each_tier_is_granted_where_it_can_be_made(model: flux.Flux, make_job: Any) -> None:
    states = {tier: model.prepare([make_job("1", tier=tier)])[0][0] for tier in ("LOSSLESS", "HIGH", "DRAFT")}
    assert {tier: state.tier for tier, state in states.items()} == {tier: tier for tier in states}
    assert len({state.batch_key for state in states.values()}) == 3
    assert [state.batch_key.precision for state in states.values()] == ["", "high", "draft"]


def test_what_cannot_be_made_is_lossless_and_says_so(
    model: flux.Flux, make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted = make_job("1", tier="HIGH", adapters=(AdapterUse(path=Path("unread"), digest="d", scale=1.0),))
    assert model.prepare([adapted])[0][0].tier == "LOSSLESS"
    linear = tiers.Tiers(nn.Linear(2, 2))
    assert linear.granted(make_job("1", tier="DRAFT")) == "LOSSLESS"
    monkeypatch.setattr(quantize, "is_possible", lambda device, dtype: False)
    assert tiers.Tiers(nn.Linear(2, 2)).granted(make_job("1", tier="HIGH")) == "LOSSLESS"


def test_high_is_nearly_lossless_and_leaves_lossless_alone(model: flux.Flux, make_job: Any) -> None:
    before, high, after = (made(model, make_job("1", tier=tier)) for tier in ("LOSSLESS", "HIGH", "LOSSLESS"))
    assert torch.equal(before[0].latents, after[0].latents)
    assert not torch.equal(before[0].latents, high[0].latents)
    assert psnr_db(*pictures(model, before), *pictures(model, high)) > tiers.HIGH_PSNR_DB_MIN


def test_the_lighter_copy_goes_with_its_model_and_is_made_again(model: flux.Flux, make_job: Any) -> None:
    leaving.and_returning(model, lambda: pictures(model, made(model, make_job("1", tier="HIGH"))))


def test_drafts_of_several_lengths_and_adapters_are_each_as_alone(
    model: flux.Flux, make_job: Any, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    module = "transformer.transformer_blocks.0.attn.to_q"
    width = model._pipeline.transformer.transformer_blocks[0].attn.to_q.in_features
    tensors = {f"{module}.lora_A.weight": torch.randn(2, width), f"{module}.lora_B.weight": torch.randn(width, 2)}
    safetensors.torch.save_file(tensors, tmp_path / "one.safetensors")
    use = AdapterUse(path=tmp_path / "one.safetensors", digest="d1", scale=0.5)
    jobs = [
        make_job("1", tier="DRAFT", steps=60),
        make_job("2", tier="DRAFT", steps=12, adapters=(use,), prompt="a blue square"),
        make_job("3", tier="DRAFT", steps=4, guidance_scale=5.0),
    ]
    together = made(model, *jobs)
    alone = [state for job in jobs for state in made(model, job)]
    assert [state.cached_steps for state in together] == [state.cached_steps for state in alone]
    assert together[0].cached_steps > together[2].cached_steps
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(one.latents, other.latents, atol=1e-4)


def test_the_engine_tells_what_was_made_and_what_it_spared(
    specs: Any, make_job: Any, record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    recorder = record([specs["true_cfg"]])
    recorder.submit(*(make_job(tier, tier=tier, steps=60) for tier in ("LOSSLESS", "HIGH", "DRAFT")))
    ends = dict(zip(("LOSSLESS", "HIGH", "DRAFT"), recorder.finished("LOSSLESS", "HIGH", "DRAFT"), strict=True))
    assert {name: end.outputs[0].tier for name, end in ends.items()} == {name: name for name in ends}
    assert ends["LOSSLESS"].usage.cached_steps == ends["HIGH"].usage.cached_steps == 0
    assert 0 < ends["DRAFT"].usage.cached_steps < ends["DRAFT"].usage.steps == 60
    seen = recorder.engine.snapshot()
    assert seen.texts_encoded + seen.texts_remembered == 6
    assert seen.texts_encoded in (2, 4, 6)  # by how many were prepared at once
    shares = {cost.shape.variant: cost.share for cost in seen.step_costs}
    assert shares.keys() == {"text", "text high", "text draft"}
    assert shares["text draft"] < shares["text"] == shares["text high"] == 1.0
