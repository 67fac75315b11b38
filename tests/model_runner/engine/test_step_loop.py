"""What the loop runs in each turn, step by step, with a family that can be computed by hand."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch

from darkroom.model_runner.engine import errors
from darkroom.model_runner.engine.families import Load
from darkroom.model_runner.engine.job import (
    AdapterUse,
    Cancelled,
    EngineConfig,
    Event,
    Failed,
    Finished,
    Progressed,
    Started,
)
from darkroom.model_runner.engine.step_loop import StepLoop
from tests.model_runner.engine import counting

Make = Callable[..., Any]


class Harness:
    """A loop that is turned by hand, its family and its events; its clock moves as the family works."""

    def __init__(self, path: Path, **config: Any) -> None:
        self.family = counting.Counting()
        self.events: list[Event] = []
        families: dict[str, Load] = {"counting": self.family.load}
        specs = [counting.spec(path), counting.spec(path, name="other")]
        self.loop = StepLoop(
            EngineConfig(**config),
            specs,
            self.events.append,
            families=families,
            pool=counting.Inline(),
            now_us=self.family.clock,
            costs=counting.costs(),
        )

    def turn(self, count: int = 1) -> list[list[int]]:
        """Turn the loop until it has run so many steps, or has nothing to do; return the seeds in each forward."""
        before = len(self.family.forwards)
        while len(self.family.forwards) < before + count and self.loop.turn():
            pass
        return self.family.forwards[before:]

    def run(self) -> None:
        while not self.loop.is_idle:
            assert self.loop.turn() or self.loop.is_idle, "stuck"

    def of(self, key: str) -> list[Event]:
        return [event for event in self.events if event.job_key == key]

    def end(self, key: str) -> Any:
        (end,) = [event for event in self.of(key) if isinstance(event, Finished | Failed | Cancelled)]
        assert self.of(key)[-1] is end
        return end


@pytest.fixture
def harness(tmp_path: Path) -> Callable[..., Harness]:
    return lambda **config: Harness(tmp_path, **config)


@pytest.fixture
def job(make_job: Any) -> Make:
    def make(key: str, seed: int = 0, **changes: Any) -> Any:
        return make_job(key, **({"model": "counting", "guidance_scale": 1.0, "seeds": (seed,)} | changes))

    return make


def grey(output: Any) -> int:
    pixel = PIL.Image.open(io.BytesIO(output.data)).getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return int(pixel[0])


def test_the_life_of_a_generation(harness: Any, job: Make) -> None:
    run = harness()
    run.loop.accept(job("1", seed=9, steps=3, width=8, height=4))
    run.run()
    kinds = [Started, Progressed, Progressed, Progressed, Finished]
    assert [type(event) for event in run.events] == kinds
    assert [(event.steps_done, event.steps_total) for event in run.events[1:4]] == [(1, 3), (2, 3), (3, 3)]
    assert run.events[3].remaining_us == 0
    (output,) = run.end("1").outputs
    assert (output.media_type, output.width, output.height, output.seed, grey(output)) == ("image/png", 8, 4, 9, 3)
    usage = run.end("1").usage
    assert (usage.steps, usage.images, usage.pixels) == (3, 1, 32)
    assert [stage.name for stage in run.end("1").stages] == ["wait", "load", "prepare", "denoise", "decode", "encode"]


def test_rows_join_and_leave_at_any_step(harness: Any, job: Make) -> None:
    run = harness()
    run.loop.accept(job("1", seed=1, steps=4))
    assert run.turn() == [[1]]
    run.loop.accept(job("2", seed=2, steps=2))
    assert run.turn(4) == [[1, 2], [1, 2], [1]]
    assert [grey(run.end(key).outputs[0]) for key in "12"] == [4, 2]


def test_keys_share_no_batch_and_batches_are_bounded(harness: Any, job: Make) -> None:
    run = harness(batch_rows_max=2)
    for seed in (1, 2, 3):
        run.loop.accept(job(str(seed), seed=seed, steps=2))
    run.loop.accept(job("guided", seed=4, guidance_scale=2.0, steps=1))
    run.loop.accept(job("wide", seed=5, width=64, steps=1))
    assert run.turn(6) == [[1, 2], [1, 2], [3], [3], [4], [5]]


def test_a_suspect_shares_no_batch(harness: Any, job: Make) -> None:
    run = harness()
    run.loop.accept(job("1", seed=1, steps=1))
    run.loop.accept(job("2", solo=True, seeds=(2, 3), steps=1))
    run.loop.accept(job("3", seed=4, solo=True, steps=1))
    run.loop.accept(job("4", seed=5, steps=1))
    assert run.turn(3) == [[1, 5], [2, 3], [4]]


def test_images_of_one_generation_come_in_the_order_of_its_seeds(harness: Any, job: Make) -> None:
    run = harness(batch_rows_max=2)
    run.loop.accept(job("1", seeds=(5, 6, 7), steps=2))
    run.run()
    assert [output.seed for output in run.end("1").outputs] == [5, 6, 7]
    assert run.end("1").usage.steps == 6
    done = [event.steps_done for event in run.of("1") if isinstance(event, Progressed)]
    assert done == [2, 4, 5, 6]


def test_jobs_wait_in_order_when_the_device_is_full(harness: Any, job: Make) -> None:
    run = harness(rows_live_max=2)
    run.loop.accept(job("big", seeds=(1, 2, 3), steps=2))
    run.loop.accept(job("2", seed=4, steps=1))
    assert run.turn(2) == [[1, 2, 3], [1, 2, 3]]
    assert run.loop.snapshot.jobs_waiting == 1
    assert run.turn() == [[4]]
    run.run()
    assert isinstance(run.end("2"), Finished)


def test_a_model_that_just_came_serves_those_who_wait_for_it_then_the_oldest_has_its_own(
    harness: Any, job: Make
) -> None:
    run = harness(memory_bytes_max=1)
    run.loop.accept(job("1", seed=1, steps=2))
    run.loop.accept(job("2", seed=2, steps=1, model="other"))
    run.loop.accept(job("3", seed=3, steps=100))
    steps = run.turn(101)
    assert steps[:3] == [[1, 3], [1, 3], [3]]
    # Loading took 7 ms, so the model stays for 28 ms: that is about 27 steps of 1 ms, and the rest of a slice.
    assert 20 < steps.index([2]) < 36
    assert run.loop.snapshot.models == ("counting",)
    assert run.end("2").outputs


def test_cancel_ends_a_generation_before_its_next_step(harness: Any, job: Make) -> None:
    run = harness()
    run.loop.accept(job("1", seeds=(1, 2), steps=9))
    run.loop.accept(job("2", seed=3, steps=9))
    run.turn(3)
    run.loop.cancel("1")
    assert isinstance(run.end("1"), Cancelled)
    assert run.end("1").usage.steps == 6
    assert run.turn() == [[3]]
    run.loop.cancel("1")
    run.loop.cancel("unknown")
    run.run()
    assert isinstance(run.end("2"), Finished)


def test_cancel_of_a_waiting_job_costs_nothing(harness: Any, job: Make) -> None:
    run = harness()
    run.loop.accept(job("1"))
    run.loop.cancel("1")
    assert run.loop.is_idle
    assert run.end("1").usage.device_time_us == 0
    assert run.turn() == []


def test_one_that_fails_fails_alone(harness: Any, job: Make) -> None:
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


def test_a_batch_too_large_for_the_device_is_halved_and_remembered(harness: Any, job: Make) -> None:
    run = harness()
    run.family.batch_max = 1
    run.loop.accept(job("1", seeds=(1, 2, 3), steps=2))
    run.run()
    assert [grey(output) for output in run.end("1").outputs] == [2, 2, 2]
    assert run.family.forwards == [[1, 2, 3], [1, 2], [1], [2], [3], [1], [2], [3]]


def test_numbers_that_are_no_picture_fail_their_generation_only(harness: Any, job: Make) -> None:
    run = harness()
    run.loop.accept(job("nan", seed=1, prompt="nan"))
    run.loop.accept(job("good", seed=2))
    run.run()
    assert run.end("nan").code == "NOT_FINITE"
    assert isinstance(run.end("good"), Finished)


def test_a_bad_adapter_or_model_fails_before_any_step(harness: Any, job: Make, tmp_path: Path) -> None:
    run = harness()
    missing = AdapterUse(path=tmp_path / "none", digest="d", scale=1.0)
    run.loop.accept(job("adapter", adapters=(missing,)))
    run.loop.accept(job("model", model="unknown"))
    run.run()
    assert (run.end("adapter").code, run.end("adapter").fault) == ("ADAPTER_INVALID", "request")
    assert (run.end("model").code, run.end("model").fault) == ("MODEL_LOAD_FAILED", "runner")
    assert run.family.forwards == []


def test_a_lost_device_ends_the_loop(harness: Any, job: Make) -> None:
    run = harness()
    run.family.broken = {2: torch.AcceleratorError("an illegal memory access was encountered")}
    run.loop.accept(job("1", seed=1))
    run.loop.accept(job("2", seed=2))
    with pytest.raises(errors.DeviceLost):
        run.run()
    run.loop.fail_all(errors.DeviceLost("the accelerator failed and must be reset"))
    assert {run.end(key).code for key in "12"} == {"DEVICE_LOST"}
    assert run.loop.is_idle


def test_every_microsecond_is_somebodys(harness: Any, job: Make) -> None:
    run = harness(batch_rows_max=3)
    run.family.broken = {7: ValueError()}
    for seed in range(10):
        run.loop.accept(job(str(seed), seeds=(seed, seed + 100), steps=seed + 1, model=("counting", "other")[seed % 2]))
        run.turn()
    run.loop.cancel("9")
    run.run()
    snapshot = run.loop.snapshot
    used_us = sum(run.end(str(seed)).usage.device_time_us for seed in range(10))
    assert snapshot.busy_us == used_us + snapshot.platform_us
    assert used_us > 0
    assert snapshot.platform_us > 0
    assert snapshot.busy_us == run.family.clock.worked_us
    assert {cost.shape.rows for cost in snapshot.step_costs if cost.measured != 10} == {1, 2, 3}
