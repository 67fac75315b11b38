"""What the loop runs in each turn, step by step, with a family that can be computed by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from darkroom.model_runner import step_cost
from darkroom.model_runner.engine import adapters, errors
from darkroom.model_runner.engine.job import (
    AdapterUse,
    Cancelled,
    Finished,
    Priority,
    Progressed,
    Started,
)
from tests.model_runner.engine.harness import Harness, grey, job

Make = Callable[..., Any]


@pytest.fixture
def harness(tmp_path: Path) -> Callable[..., Harness]:
    return lambda **config: Harness(tmp_path, **config)


def test_the_life_of_a_generation(harness: Any) -> None:
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


def test_rows_join_and_leave_at_any_step(harness: Any) -> None:
    run = harness()
    run.loop.accept(job("1", seed=1, steps=4))
    assert run.turn() == [[1]]
    run.loop.accept(job("2", seed=2, steps=2))
    assert run.turn(4) == [[1, 2], [1, 2], [1]]
    assert [grey(run.end(key).outputs[0]) for key in "12"] == [4, 2]


def test_keys_share_no_batch_and_batches_are_bounded(harness: Any) -> None:
    run = harness(batch_rows_max=2)
    for seed in (1, 2, 3):
        run.loop.accept(job(str(seed), seed=seed, steps=2))
    run.loop.accept(job("guided", seed=4, guidance_scale=2.0, steps=1))
    run.loop.accept(job("wide", seed=5, width=64, steps=1))
    assert run.turn(6) == [[1, 2], [1, 2], [3], [3], [4], [5]]


def test_a_suspect_shares_no_batch(harness: Any) -> None:
    run = harness()
    run.loop.accept(job("1", seed=1, steps=1))
    run.loop.accept(job("2", solo=True, seeds=(2, 3), steps=1))
    run.loop.accept(job("3", seed=4, solo=True, steps=1))
    run.loop.accept(job("4", seed=5, steps=1))
    assert run.turn(3) == [[1, 5], [2, 3], [4]]


def test_images_of_one_generation_come_in_the_order_of_its_seeds(harness: Any) -> None:
    run = harness(batch_rows_max=2)
    run.loop.accept(job("1", seeds=(5, 6, 7), steps=2))
    run.run()
    assert [output.seed for output in run.end("1").outputs] == [5, 6, 7]
    assert run.end("1").usage.steps == 6
    done = [event.steps_done for event in run.of("1") if isinstance(event, Progressed)]
    assert done == [2, 4, 5, 6]


def test_jobs_wait_in_order_when_the_device_is_full(harness: Any) -> None:
    run = harness(rows_live_max=2)
    run.loop.accept(job("big", seeds=(1, 2, 3), steps=2))
    run.loop.accept(job("2", seed=4, steps=1))
    assert run.turn(2) == [[1, 2, 3], [1, 2, 3]]
    assert run.loop.snapshot.jobs_waiting == 1
    assert run.turn() == [[4]]
    run.run()
    assert isinstance(run.end("2"), Finished)


def test_a_model_that_just_came_serves_those_who_wait_for_it_then_the_oldest_has_its_own(harness: Any) -> None:
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


def test_cancel_ends_a_generation_before_its_next_step(harness: Any) -> None:
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


def test_cancel_of_a_waiting_job_costs_nothing(harness: Any) -> None:
    run = harness()
    run.loop.accept(job("1"))
    run.loop.cancel("1")
    assert run.is_idle
    assert run.end("1").usage.device_time_us == 0
    assert run.turn() == []


def test_numbers_that_are_no_picture_fail_their_generation_only(harness: Any) -> None:
    run = harness()
    run.loop.accept(job("nan", seed=1, prompt="nan"))
    run.loop.accept(job("good", seed=2))
    run.run()
    assert run.end("nan").code == "NOT_FINITE"
    assert isinstance(run.end("good"), Finished)


def test_a_bad_adapter_or_model_fails_before_any_step(harness: Any, tmp_path: Path) -> None:
    run = harness()
    (tmp_path / "broken").write_bytes(b"no safetensors")
    broken = AdapterUse(path=tmp_path / "broken", digest="broken", scale=1.0)
    lost = AdapterUse(path=tmp_path / "none", digest="lost", scale=1.0)
    run.loop.accept(job("adapter", adapters=(broken,)))
    run.loop.accept(job("lost", adapters=(lost,)))
    run.loop.accept(job("model", model="unknown"))
    run.run()
    assert (run.end("adapter").code, run.end("adapter").fault) == ("ADAPTER_INVALID", "request")
    assert (run.end("lost").code, run.end("lost").fault) == ("INTERNAL", "runner")
    assert (run.end("model").code, run.end("model").fault) == ("MODEL_LOAD_FAILED", "runner")
    assert run.family.forwards == []


def test_a_lost_device_ends_the_loop(harness: Any) -> None:
    run = harness()
    run.family.broken = {2: torch.AcceleratorError("an illegal memory access was encountered")}
    run.loop.accept(job("1", seed=1))
    run.loop.accept(job("2", seed=2))
    with pytest.raises(errors.DeviceLost):
        run.run()
    run.loop.fail_all(errors.DeviceLost("the accelerator failed and must be reset"))
    assert {run.end(key).code for key in "12"} == {"DEVICE_LOST"}
    assert run.is_idle


def test_every_microsecond_is_somebodys(harness: Any) -> None:
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


def test_an_urgent_one_goes_first_at_the_next_step_and_the_other_goes_on_where_it_was(harness: Any) -> None:
    run = harness()
    run.loop.accept(job("standard", 1, steps=5))
    assert run.turn(2) == [[1], [1]]
    run.loop.accept(job("urgent", 2, steps=2, priority=Priority.INTERACTIVE, guidance_scale=2.0))
    assert run.turn(5) == [[2], [2], [1], [1], [1]]
    run.run()
    assert grey(run.end("standard").outputs[0]) == 5


def test_less_urgent_rows_share_an_urgent_ones_step_as_long_as_they_hardly_slow_it(harness: Any) -> None:
    costs = [
        step_cost.StepCost(step_cost.Shape("counting", "32x32", False, rows, "text"), us, 10)
        for rows, us in ((1, 1000), (2, 1500), (4, 2500), (8, 4500))
    ]
    for steps, shared in ((4, 1), (3, 2), (1, 5)):  # in a kind whose longest one takes 4 steps
        run = harness(costs=costs, urgent_slower_max=1.2)
        run.family.step_us = lambda rows: 500 + 500 * rows
        run.loop.accept(job("long", priority=Priority.INTERACTIVE))
        run.run()
        run.loop.accept(job("standard", seeds=(1, 2, 3, 4), steps=9))
        run.turn()
        run.loop.accept(job("urgent", 9, priority=Priority.INTERACTIVE, steps=steps))
        (forward,) = run.turn()
        assert (forward[0], len(forward)) == (9, shared)


def test_the_tenant_that_had_least_and_the_nearest_deadline_go_first(harness: Any) -> None:
    run = harness(batch_rows_max=1, slice_steps_max=1)
    run.loop.accept(job("1", 1, tenant_id="a"))
    run.loop.accept(job("2", 2, tenant_id="a"))
    run.loop.accept(job("3", 3, tenant_id="b"))
    assert run.turn(6) == [[3], [1], [3], [1], [3], [1]]  # preparing 1 and 2 was for the same tenant
    run.loop.accept(job("soon", 4, tenant_id="a", deadline_us=10**9))
    assert run.turn(4) == [[4]] * 4


def test_nobody_starves_while_there_is_more_urgent_work_than_the_device_can_do(harness: Any) -> None:
    ageing_us = 50_000
    run = harness(ageing_us=ageing_us, rows_live_max=8)
    standard = {str(seed): seed for seed in range(3)}
    for key, seed in standard.items():
        run.loop.accept(job(key, seed, steps=6, guidance_scale=2.0))
    last_us, waits_us = dict.fromkeys(standard.values(), 0), []
    for turn in range(4000):
        if len(run.loop._floor.waiting) < 5:
            run.loop.accept(job(f"urgent {turn}", 100 + turn, steps=3, priority=Priority.INTERACTIVE))
        before = len(run.family.forwards)
        run.loop.turn()
        for seed in {seed for forward in run.family.forwards[before:] for seed in forward} & set(last_us):
            waits_us.append(run.clock.now_us - last_us[seed])
            last_us[seed] = run.clock.now_us
        if all(any(isinstance(event, Finished) for event in run.of(key)) for key in standard):
            break
    assert len(waits_us) == 18
    # Beside the bound: the slice that runs when it is reached, and the model's load at the beginning.
    assert max(waits_us) <= ageing_us + 2 * 8 * 1080 + 7000
    assert min(waits_us) >= ageing_us / 2  # there was always more urgent work


def test_a_stream_of_newcomers_of_another_model_delays_nobody_for_ever(harness: Any) -> None:
    run = harness(memory_bytes_max=1)
    run.loop.accept(job("old", 1, model="other"))
    for turn in range(400):
        run.loop.accept(job(f"new {turn}", 2))
        run.turn()
        if any(isinstance(event, Finished) for event in run.of("old")):
            break
    assert run.end("old").outputs


def test_what_merged_weights_take_is_told(harness: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = harness()
    run.loop.accept(job("1"))
    run.turn()
    assert run.loop.snapshot.merged_bytes == 0
    monkeypatch.setattr(adapters.Bank, "merged_bytes", 24)
    run.turn()
    assert run.loop.snapshot.merged_bytes == 24
