from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from darkroom.model_runner import step_cost
from darkroom.model_runner.engine import quantize, slices, tiers
from darkroom.model_runner.engine.job import Finished
from darkroom.model_runner.engine.state import BatchKey
from tests.model_runner.engine.harness import Harness, job


@pytest.fixture
def harness(tmp_path: Path) -> Callable[..., Harness]:
    return lambda **config: Harness(tmp_path, **config)


def alternations(run: Harness, steps: int) -> list[int]:
    """Return the first seed of each forward."""
    return [forward[0] for forward in run.turn(steps)]


def two_tenants(run: Harness) -> None:
    """Two rows that share no batch, each of its own tenant."""
    run.loop.accept(job("1", 1, tenant_id="a", steps=90))
    run.loop.accept(job("2", 2, tenant_id="b", steps=90, guidance_scale=2.0))


def test_a_slice_is_several_steps_then_it_is_asked_again(harness: Any) -> None:
    run = harness(slice_steps_max=3)
    two_tenants(run)
    assert alternations(run, 12) == [1, 1, 1, 2, 2, 2, 1, 1, 1, 2, 2, 2]


def test_a_slice_ends_by_time(harness: Any) -> None:
    run = harness(slice_steps_max=100, slice_us_max=1500)  # a step takes 1010
    two_tenants(run)
    assert alternations(run, 8) == [1, 1, 2, 2, 1, 1, 2, 2]


def test_a_slice_ends_when_somebody_comes_or_goes(harness: Any) -> None:
    run = harness(slice_steps_max=100)
    two_tenants(run)
    assert alternations(run, 2) == [1, 1]
    run.loop.accept(job("3", 3, tenant_id="c", steps=1, width=64))
    assert alternations(run, 2) == [2, 2]
    run.loop.cancel("2")
    assert alternations(run, 1) == [3]


def test_a_steps_cost_is_measured_for_its_shape_and_rows(harness: Any) -> None:
    run = harness(costs=[])
    for seed in range(4):
        run.loop.accept(job(str(seed), seed, steps=20))
    run.run()
    costs = {cost.shape.rows: cost.step_us for cost in run.loop.snapshot.step_costs}
    assert costs == {1: 1010, 2: 1020, 4: 1040, 3: 1030} or costs == {1: 1010, 2: 1020, 4: 1040}
    assert {cost.shape._replace(rows=0) for cost in run.loop.snapshot.step_costs} == {
        step_cost.Shape("counting", "32x32", False, 0, "text")
    }


def test_batches_grow_only_while_they_pay_off(harness: Any) -> None:
    run = harness(costs=[])
    run.family.step_us = lambda rows: 1000 + 100 * rows + 2000 * max(rows - 4, 0)
    for seed in range(8):
        run.loop.accept(job(str(seed), seed, steps=100))
    forwards = run.turn(100)
    assert {len(forward) for forward in forwards[20:]} == {4}


def test_a_lone_step_that_fails_ends_its_generation_and_teaches_nothing(harness: Any) -> None:
    run = harness(costs=[])
    run.family.broken = {1: ValueError("shape")}
    run.loop.accept(job("1", 1))
    run.run()
    assert run.end("1").code == "INTERNAL"
    assert run.loop.snapshot.step_costs == ()
    run.loop.accept(job("2", 2))
    run.run()
    assert isinstance(run.end("2"), Finished)


def test_shapes_name_what_makes_steps_differ() -> None:
    key = BatchKey("m", "edit", (64, 32), 8, True, "fp8")
    assert slices.shape(key, 3) == step_cost.Shape("m", "64x32", True, 3, "edit fp8")


def test_what_a_tier_needs_is_made_at_the_platforms_expense(harness: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = harness()
    made = []

    def slowly(denoiser: nn.Module) -> nn.Module:
        run.clock.work(5000)
        made.append(denoiser)
        return denoiser

    monkeypatch.setattr(quantize, "lighter", slowly)
    run.family.tiers = tiers.Tiers(nn.Linear(2, 2))
    for key, tier in (("1", "LOSSLESS"), ("2", "HIGH"), ("3", "HIGH")):
        run.loop.accept(job(key, tier=tier))
        run.run()
        assert len(made) == (key > "1")
    assert run.loop.snapshot.platform_us == 7000 + 5000
    assert run.end("2").usage == run.end("3").usage == run.end("1").usage


def test_what_a_tier_needs_and_cannot_have_is_tried_again_by_its_steps(
    harness: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = harness()

    def short(denoiser: nn.Module) -> nn.Module:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(quantize, "lighter", short)
    run.family.tiers = tiers.Tiers(nn.Linear(2, 2))
    run.loop.accept(job("1", tier="HIGH"))
    run.run()
    assert isinstance(run.end("1"), Finished)  # the counting family's steps need no copy
