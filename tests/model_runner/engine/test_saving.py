import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from darkroom.model_runner.engine import checkpoint, errors, saving
from darkroom.model_runner.engine.job import AdapterUse, Checkpointed, Failed, Finished, Priority, Started, Suspended
from tests.model_runner.engine import counting
from tests.model_runner.engine.harness import Harness, job


@pytest.fixture
def harness(tmp_path: Path) -> Callable[..., Harness]:
    return lambda **config: Harness(tmp_path, **config)


def test_a_checkpoint_leaves_its_generation_going(harness: Any) -> None:
    run = harness()
    run.loop.accept(job("1", seeds=(1, 2), steps=4))
    run.checkpoint("1")
    assert run.events == []  # it has not begun
    run.turn(2)
    run.checkpoint("1")
    saved = run.of("1")[-1]
    assert isinstance(saved, Checkpointed)
    assert saved.usage.steps == 4
    run.run()
    assert isinstance(run.end("1"), Finished)


def test_drained_work_goes_on_elsewhere_and_is_counted_once(harness: Any) -> None:
    one, other, whole = harness(), harness(), harness()
    wanted = job("1", seeds=(1, 2), steps=4)
    whole.loop.accept(wanted)
    whole.run()
    one.loop.accept(wanted)
    one.turn(2)
    one.loop.accept(job("waiting", model="other"))
    one.turn(1)
    one.loop.drain()
    assert one.is_idle
    assert one.end("waiting").data is None
    suspended = one.end("1")
    assert isinstance(suspended, Suspended)
    other.loop.accept(dataclasses.replace(wanted, key="2", checkpoint=suspended.data))
    other.run()
    assert other.of("2")[0] == Started("2", resumed_step=6)
    assert len(other.family.forwards) == 1
    assert other.family.prepared == []
    assert other.end("2").outputs == whole.end("1").outputs
    usage = other.end("2").usage
    assert (usage.steps, usage.images) == (8, 2)
    assert usage.denoise_us == whole.end("1").usage.denoise_us
    walls_us = {stage.name: stage.wall_us for stage in other.end("2").stages}
    assert sum(walls_us.values()) == one.clock.now_us + other.clock.now_us
    assert walls_us["load"] == 2 * 7000
    assert walls_us["prepare"] == {stage.name: stage.wall_us for stage in whole.end("1").stages}["prepare"]


@pytest.mark.parametrize("fits", [True, False])
def test_what_is_done_again_is_the_platforms(harness: Any, monkeypatch: pytest.MonkeyPatch, fits: bool) -> None:
    one, other = harness(), harness()
    wanted = job("1", steps=4)
    one.loop.accept(wanted)
    one.turn(2)
    one.loop.drain()
    restore = saving.restore

    def slowly(*arguments: Any) -> Any:
        other.clock.work(50)
        return restore(*arguments)

    monkeypatch.setattr(saving, "restore", slowly)
    other.loop.accept(dataclasses.replace(wanted, checkpoint=one.end("1").data if fits else b"damaged"))
    other.run()
    seen, usage = other.loop.snapshot, other.end("1").usage
    assert seen.platform_us == 7000 + 50  # loading, and reading the states
    brought_us = one.end("1").usage.device_time_us if fits else 0
    assert usage.device_time_us - brought_us == seen.busy_us - seen.platform_us


def test_an_adapter_that_fails_fails_who_goes_on_too(harness: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = harness(), harness()
    wanted = job("1", steps=4, adapters=(AdapterUse(path=Path("gone"), digest="0" * 64, scale=1.0),))
    monkeypatch.setattr(one.family.bank, "get", lambda use: None)
    one.loop.accept(wanted)
    one.turn(2)
    one.loop.drain()
    other.loop.accept(dataclasses.replace(wanted, checkpoint=one.end("1").data))
    other.run()
    assert isinstance(other.end("1"), Failed)
    assert other.family.forwards == other.loop._floor.rows == []


def test_a_file_of_another_job_is_refused_and_it_begins_anew(harness: Any) -> None:
    one, other = harness(), harness()
    one.loop.accept(job("1", 1))
    one.turn()
    one.loop.drain()
    for key, changes in (("seed", {"seeds": (2,)}), ("model", {"model": "other"})):
        other.loop.accept(dataclasses.replace(job(key, 1, **changes), checkpoint=one.end("1").data))
    other.loop.accept(dataclasses.replace(job("damaged", 1), checkpoint=one.end("1").data[:-1]))
    other.run()
    for key in ("seed", "model", "damaged"):
        assert other.of(key)[0].resumed_step == 0
        assert other.end(key).usage.steps == 4


@pytest.mark.parametrize("error", [KeyError("fields"), MemoryError()])
def test_a_file_that_cannot_be_taken_in_leaves_the_engine_going(
    harness: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    run = harness()
    monkeypatch.setattr(checkpoint, "load", raising(error))
    run.loop.accept(dataclasses.replace(job("1"), checkpoint=b"signed, but by whom"))
    run.run()
    assert isinstance(run.end("1"), Finished)


def test_a_device_that_is_lost_while_a_file_is_taken_in_is_told(harness: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = harness()
    monkeypatch.setattr(checkpoint, "load", raising(errors.DeviceLost("gone")))
    run.loop.accept(dataclasses.replace(job("1"), checkpoint=b"x"))
    with pytest.raises(errors.DeviceLost):
        run.run()


def test_a_generation_that_cannot_be_saved_goes_on_and_is_put_aside_without(
    harness: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = harness()
    monkeypatch.setattr(checkpoint, "save", raising(MemoryError()))
    for key in ("1", "2"):
        run.loop.accept(job(key, int(key)))
    run.turn(2)
    run.checkpoint("1")
    assert not any(isinstance(event, Checkpointed) for event in run.events)
    saving.suspend(run.loop._floor, run.loop._floor.generations["2"])
    assert run.end("2").data is None
    run.run()
    assert isinstance(run.end("1"), Finished)
    seen = run.loop.snapshot
    used_us = run.end("1").usage.device_time_us + run.end("2").usage.device_time_us
    assert seen.busy_us == used_us + seen.platform_us


def test_a_device_that_is_lost_while_a_file_is_made_is_told(harness: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = harness()
    monkeypatch.setattr(checkpoint, "save", raising(errors.DeviceLost("gone")))
    run.loop.accept(job("1"))
    run.turn(1)
    with pytest.raises(errors.DeviceLost):
        run.checkpoint("1")


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*arguments: Any, **named: Any) -> Any:
        raise error

    return fail


def test_who_is_more_urgent_gets_the_memory_and_each_makes_way_once(harness: Any) -> None:
    run = harness(memory_bytes_max=1)
    slow = job("slow", steps=10, priority=Priority.BATCH)
    run.loop.accept(slow)
    run.turn(5)
    run.loop.accept(job("peer", model="other", priority=Priority.BATCH))
    run.turn(2)
    assert "slow" in run.loop._floor.generations  # a peer waits for the memory
    run.loop.accept(job("urgent", model="other", priority=Priority.INTERACTIVE))
    run.run()
    suspended = run.end("slow")
    assert isinstance(suspended, Suspended)
    assert 0 < suspended.usage.steps < 10
    assert [type(run.end(key)) for key in ("urgent", "peer")] == [Finished, Finished]
    run.loop.accept(dataclasses.replace(slow, key="again", checkpoint=suspended.data))
    run.turn(4)
    run.loop.accept(job("urgent too", model="other", priority=Priority.INTERACTIVE))
    run.run()
    assert isinstance(run.end("again"), Finished)
    assert run.end("again").usage.steps == 10
    assert isinstance(run.end("urgent too"), Finished)


def test_who_runs_long_is_saved_from_time_to_time(harness: Any) -> None:
    run = harness(checkpoint_interval_us=4000)
    run.loop.accept(job("1", steps=10))
    run.run()
    saved = [event.usage.steps for event in run.events if isinstance(event, Checkpointed)]
    assert saved == [4, 8]
    never = harness(checkpoint_interval_us=0)
    never.loop.accept(job("1", steps=10))
    never.run()
    assert not any(isinstance(event, Checkpointed) for event in never.events)


def test_what_cannot_be_saved_keeps_its_memory_to_its_end_and_lets_nobody_in_meanwhile(harness: Any) -> None:
    run = harness(memory_bytes_max=1, ageing_us=10_000_000)
    run.family.portable = False
    run.loop.accept(job("rooted", 1, steps=60, priority=Priority.BATCH))
    run.turn(2)
    run.loop.accept(job("urgent", 2, model="other", priority=Priority.INTERACTIVE))
    run.loop.accept(job("later", 3, priority=Priority.BATCH))
    run.run()
    ended = [event.job_key for event in run.events if isinstance(event, Finished)]
    assert ended == ["rooted", "urgent", "later"]
    assert run.loop.snapshot.platform_us == 3 * 7000  # each came once, and its first model once more


def test_who_cannot_be_saved_goes_on_and_its_likes_wait_until_who_is_more_urgent_has_had_room(harness: Any) -> None:
    run = harness(memory_bytes_max=2, ageing_us=10_000_000)
    run.family.portable = False
    for number, model in enumerate(("counting", "other")):
        run.loop.accept(job(f"{model} first", number, model=model, steps=10 + 5 * number, priority=Priority.BATCH))
    run.turn(2)
    run.loop.accept(job("urgent", 9, model="large", priority=Priority.INTERACTIVE))
    for number in range(2, 30):
        model = ("counting", "other")[number % 2]
        run.loop.accept(job(f"{model} {number}", number, model=model, steps=10, priority=Priority.BATCH))
    run.run()
    ended = [event.job_key for event in run.events if isinstance(event, Finished)]
    assert ended[:3] == ["counting first", "other first", "urgent"]


def test_what_is_decoded_again_elsewhere_is_charged_once(harness: Any) -> None:
    one, other, whole = harness(), harness(), harness()
    wanted = job("1", steps=2)
    whole.loop.accept(wanted)
    whole.run()
    one.pool = one.loop._floor.pool = counting.Later()
    one.loop.accept(wanted)
    while one.loop.turn() or not one.loop._floor.rows:
        one.pool.work()  # the weights' digest
        if one.family.decoded:
            break
    one.loop.drain()
    other.loop.accept(dataclasses.replace(wanted, checkpoint=one.end("1").data))
    other.run()
    assert other.end("1").usage.decode_us == whole.end("1").usage.decode_us
    assert one.loop.snapshot.busy_us == one.end("1").usage.device_time_us + one.loop.snapshot.platform_us


def test_it_is_not_saved_while_its_files_are_made(harness: Any) -> None:
    run = harness(checkpoint_interval_us=1)
    run.pool = run.loop._floor.pool = counting.Later()
    run.loop.accept(job("1", steps=2))
    generation = run.loop._floor.generations["1"]
    while not run.family.decoded:
        run.loop.turn()
        run.pool.work()
        run.clock.now_us += 10
        assert saving.is_due(run.loop._floor, generation) is not bool(run.family.decoded)
