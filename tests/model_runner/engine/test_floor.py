"""Batches are small for a while after memory was short, and every microsecond is somebody's."""

import contextlib
import dataclasses
import gc
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.model_runner.engine import checkpoint, errors
from darkroom.model_runner.engine.job import (
    Checkpointed,
    Ended,
    Event,
    Finished,
    Job,
    Priority,
    Progressed,
    Started,
    Suspended,
    Usage,
)
from tests.model_runner.engine import counting
from tests.model_runner.engine.harness import Harness, job


@pytest.fixture
def harness(tmp_path: Path) -> Callable[..., Harness]:
    return lambda **config: Harness(tmp_path, **config)


def test_short_memory_shrinks_batches_for_a_while(harness: Any) -> None:
    run = harness()
    run.family.batch_max = 3
    run.loop.accept(job("1", seeds=(1, 2, 3, 4), steps=3))
    assert [len(forward) for forward in run.turn(5)] == [4, 2, 2, 2, 2]
    run.family.batch_max = 4
    run.loop.accept(job("2", seeds=(5, 6, 7, 8), steps=2))
    run.run()
    assert {len(forward) for forward in run.family.forwards[5:]} == {2}
    run.clock.now_us += 60_000_000
    run.loop.accept(job("3", seeds=(5, 6, 7, 8), steps=2))
    assert [len(forward) for forward in run.turn(2)] == [4, 4]


def test_the_log_says_why_a_model_cannot_be_loaded_and_nothing_that_was_asked(harness: Any, caplog: Any) -> None:
    run = harness()
    run.loop.accept(job("1", model="unknown", prompt="a secret"))
    run.loop.accept(job("2", prompt="nan"))
    run.run()
    assert "this runner does not serve the model 'unknown'" in caplog.text
    assert "secret" not in caplog.text
    assert any(record.message.endswith(" failed: NOT_FINITE") for record in caplog.records)


ACTIONS = st.one_of(
    st.tuples(
        st.just("accept"),
        st.builds(
            dict,
            priority=st.sampled_from(Priority),
            tenant_id=st.sampled_from("ab"),
            model=st.sampled_from(["counting", "other", "unknown"]),
            seeds=st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple),
            steps=st.integers(1, 6),
            guidance_scale=st.sampled_from([1.0, 2.0]),
            prompt=st.sampled_from(["", "", "", "bad", "nan"]),
            solo=st.booleans(),
        ),
    ),
    st.tuples(st.just("turn"), st.integers(1, 12)),
    st.tuples(st.just("cancel"), st.integers(0, 12)),
    st.tuples(st.just("checkpoint"), st.integers(0, 12)),
    st.tuples(st.just("drain"), st.just(0)),
    st.tuples(st.just("wait"), st.integers(0, 20_000_000)),
    st.tuples(st.just("resume"), st.integers(0, 12)),
)

FAILURES = (torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), KeyError("broken"), errors.BadRequest("no"))


def failing(work: Callable[..., Any], chance: random.Random, rate: float, clock: counting.Clock) -> Callable[..., Any]:
    """Return it, failing now and then after a while."""

    def tried(*args: Any, **named: Any) -> Any:
        if chance.random() < rate:
            clock.work(3)
            raise chance.choice(FAILURES)
        return work(*args, **named)

    return tried


def begun(events: Sequence[Event]) -> list[Checkpointed | Suspended]:
    """What can be gone on with, after a step at least."""
    saved = [event for event in events if isinstance(event, Checkpointed | Suspended) and event.data]
    return [event for event in saved if event.usage.steps]


@settings(deadline=None, max_examples=100)
@given(
    st.lists(ACTIONS, max_size=30),
    st.integers(1, 4),
    st.integers(1, 8),
    st.integers(1, 2),
    st.sampled_from([0.0, 0.05, 0.3]),
    st.randoms(use_true_random=False),
)
def test_whatever_happens_the_time_adds_up_and_everybody_ends_once(
    actions: list[tuple[str, Any]], batch_max: int, rows_live_max: int, memory: int, rate: float, chance: random.Random
) -> None:
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        run = Harness(Path(folder), rows_live_max=rows_live_max, memory_bytes_max=memory)
        run.family.batch_max = batch_max
        run.family.broken = {7: ValueError("broken"), 8: torch.OutOfMemoryError("CUDA out of memory")}
        stack.enter_context(mock.patch.object(gc, "collect"))  # it takes a quarter of a second with torch
        for thing, name in [
            *((run.family, name) for name in ("prepare", "denoise", "advance", "decode")),
            *((checkpoint, name) for name in ("save", "load")),
        ]:
            work = failing(getattr(thing, name), chance, rate, run.clock)
            stack.enter_context(mock.patch.object(thing, name, work))
        jobs: dict[str, Job] = {}
        brought: dict[str, Usage] = {}
        for name, value in actions:
            key = str(len(jobs))
            match name:
                case "accept":
                    jobs[key] = job(key, **value)
                    run.loop.accept(jobs[key])
                case "resume" if saved := begun(run.events):
                    event = saved[value % len(saved)]
                    jobs[key] = dataclasses.replace(jobs[event.job_key], key=key, checkpoint=event.data)
                    brought[key] = event.usage
                    run.loop.accept(jobs[key])
                case "turn":
                    run.turn(value)
                case "wait":
                    run.clock.now_us += value
                case "drain":
                    run.loop.drain()
                case "checkpoint":
                    run.checkpoint(str(value))
                case "cancel":
                    run.loop.cancel(str(value))
        run.run()
    ends = [event for event in run.events if isinstance(event, Ended)]
    assert sorted(end.job_key for end in ends) == sorted(jobs)
    resumed = {event.job_key for event in run.events if isinstance(event, Started) and event.resumed_step}
    used_us = sum(end.usage.device_time_us for end in ends) - sum(brought[key].device_time_us for key in resumed)
    snapshot = run.loop.snapshot
    assert snapshot.busy_us == used_us + snapshot.platform_us
    assert snapshot.busy_us == run.clock.worked_us
    assert (snapshot.jobs_waiting, snapshot.rows_live) == (0, 0)
    for end in ends:
        if isinstance(end, Finished):
            last = [event for event in run.of(end.job_key) if isinstance(event, Progressed)][-1:]
            steps = jobs[end.job_key].steps * len(jobs[end.job_key].seeds)
            assert end.usage.steps == steps
            assert [(event.steps_done, event.steps_total) for event in last] in ([(steps, steps)], [])
