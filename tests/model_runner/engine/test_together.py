"""Failures are narrowed down, and short memory is found where it hurts least."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from darkroom.model_runner.engine.job import Finished, Priority, Suspended
from tests.model_runner.engine.harness import Harness, grey, job


@pytest.fixture
def harness(tmp_path: Path) -> Callable[..., Harness]:
    return lambda **config: Harness(tmp_path, **config)


def test_one_that_fails_fails_alone(harness: Any) -> None:
    run = harness()
    run.family.broken = {2: ValueError("shape"), 4: torch.OutOfMemoryError("CUDA out of memory")}
    run.loop.accept(job("good", seed=1, steps=2))
    run.loop.accept(job("bad", seeds=(2, 3), steps=2))
    run.loop.accept(job("large", seeds=(5, 4), steps=2))
    assert run.turn() == [[1, 2, 3, 5, 4], [1], [2], [5], [4], [4]]
    run.run()
    assert grey(run.end("good").outputs[0]) == 2
    assert (run.end("bad").code, run.end("bad").fault) == ("INTERNAL", "runner")
    assert "shape" not in run.end("bad").message
    assert run.end("large").code == "OUT_OF_MEMORY"


def test_a_batch_too_large_for_the_device_is_halved_and_remembered(harness: Any) -> None:
    run = harness()
    run.family.batch_max = 1
    run.loop.accept(job("1", seeds=(1, 2, 3), steps=2))
    run.run()
    assert [grey(output) for output in run.end("1").outputs] == [2, 2, 2]
    assert run.family.forwards == [[1, 2, 3], [1, 2], [1], [2], [3], [1], [2], [3]]


def test_idle_models_leave_when_memory_is_short(harness: Any) -> None:
    run = harness()
    run.loop.accept(job("1", model="other"))
    run.run()
    assert run.loop.snapshot.models == ("other",)
    run.family.broken = {2: torch.OutOfMemoryError("CUDA out of memory")}
    run.loop.accept(job("2", 2))
    run.run()
    assert run.end("2").code == "OUT_OF_MEMORY"
    assert run.family.forwards[-2:] == [[2], [2]]  # once more, after the other model left
    assert run.loop.snapshot.models == ("counting",)


def test_the_least_urgent_is_put_aside_for_one_that_does_not_fit_beside_it(harness: Any) -> None:
    run = harness()
    run.family.is_short = lambda: len(run.loop._floor.rows) > 2
    run.loop.accept(job("batch", 1, priority=Priority.BATCH))
    run.turn()
    run.loop.accept(job("first", 2, guidance_scale=2.0))
    run.loop.accept(job("second", 3, guidance_scale=2.0))
    run.run()
    suspended = run.end("batch")
    assert isinstance(suspended, Suspended)
    assert suspended.usage.steps == 1
    assert suspended.data is not None
    assert isinstance(run.end("first"), Finished)
    assert isinstance(run.end("second"), Finished)


def test_nobody_is_put_aside_for_one_that_is_less_urgent(harness: Any) -> None:
    run = harness()
    run.loop.accept(job("urgent", 1, priority=Priority.INTERACTIVE, steps=9))
    run.turn()
    run.family.broken = {2: torch.OutOfMemoryError("CUDA out of memory")}
    run.loop.accept(job("2", 2))
    run.run()
    assert run.end("2").code == "OUT_OF_MEMORY"
    assert isinstance(run.end("urgent"), Finished)


def test_what_was_done_for_a_row_whose_generation_fails_in_the_same_step_is_the_platforms(harness: Any) -> None:
    run = harness()
    run.family.broken = {2: ValueError("shape")}
    run.loop.accept(job("1", seeds=(1, 2)))
    run.run()
    snapshot = run.loop.snapshot
    assert run.end("1").usage.denoise_us == 0
    assert snapshot.busy_us == run.end("1").usage.device_time_us + snapshot.platform_us == run.clock.worked_us


def test_who_has_stepped_is_put_aside_before_who_would_go_on_as_it_came(harness: Any) -> None:
    run = harness()
    run.loop.accept(job("stepped", 1, priority=Priority.BATCH, steps=9))
    run.turn()
    run.loop.accept(job("new", 3, priority=Priority.BATCH, width=64))
    while len(run.loop._floor.rows) < 2:
        run.loop.turn()
    run.family.is_short = lambda: len(run.loop._floor.rows) > 2
    run.loop.accept(job("urgent", 2, priority=Priority.INTERACTIVE, guidance_scale=2.0))
    run.run()
    assert isinstance(run.end("stepped"), Suspended)
    assert [type(run.end(key)) for key in ("new", "urgent")] == [Finished, Finished]


@pytest.mark.parametrize("why", ["it cannot be saved", "its file is being made"])
def test_nobody_is_put_aside_who_would_lose_by_it(harness: Any, why: str) -> None:
    run = harness()
    run.family.portable = why != "it cannot be saved"
    run.loop.accept(job("batch", 1, priority=Priority.BATCH, steps=9))
    run.turn()
    (row,) = run.loop._floor.rows
    row.is_decoded = why == "its file is being made"
    run.family.broken = {2: torch.OutOfMemoryError("CUDA out of memory")}
    run.loop.accept(job("2", 2, priority=Priority.INTERACTIVE))
    while "2" in run.loop._floor.generations:
        run.loop.turn()
    assert run.end("2").code == "OUT_OF_MEMORY"
    assert "batch" in run.loop._floor.generations
