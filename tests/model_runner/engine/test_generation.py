import dataclasses
from typing import Any

import torch

from darkroom.model_runner.engine.checkpoint import Saved
from darkroom.model_runner.engine.generation import Generation, Row
from darkroom.model_runner.engine.job import Job, Output, Progressed, Stage
from darkroom.model_runner.engine.state import State
from tests.model_runner.engine import counting
from tests.model_runner.engine.harness import job


def state(of: Job, step: int, **changes: Any) -> State:
    ((first, *_),) = counting.Counting().prepare([of])
    return dataclasses.replace(first, step=step, **changes)


def test_wall_clock_time_is_counted_by_stage() -> None:
    generation = Generation(job("1"), now_us=100)
    for stage, now_us in (("wait", 110), ("denoise", 150), ("decode", 152), ("denoise", 160), ("decode", 163)):
        generation.mark(stage, now_us=now_us)
    assert generation.stages() == (Stage("wait", 10), Stage("denoise", 48), Stage("decode", 5))


def test_progress_is_the_steps_of_all_images_and_the_rest_at_their_pace() -> None:
    of = job("1", steps=10, seeds=(1, 2))
    generation = Generation(of, now_us=0)
    assert generation.begin([state(of, 0), state(of, 0)], now_us=1000) == 0
    generation.stepped(0, state(of, 3))
    generation.stepped(1, state(of, 2))
    assert generation.progress(now_us=2000) == Progressed("1", 5, 20, 3000)


def test_fewer_steps_than_the_job_says_count_as_they_are() -> None:
    of = job("1", steps=10)
    generation = Generation(of, now_us=0)
    generation.begin([state(of, 0, plan=counting.plan(4))], now_us=0)
    generation.stepped(0, state(of, 1))
    assert generation.progress(now_us=100) == Progressed("1", 1, 4, 300)


def test_usage_counts_steps_and_finished_images() -> None:
    of = job("1", seeds=(1, 2))
    generation = Generation(of, now_us=0)
    generation.stepped(0, state(of, 4, cached_steps=2))
    generation.stepped(1, state(of, 3))
    generation.outputs[0] = Output(b"", "image/png", 32, 16, 1)
    generation.busy_us |= {"denoise": 70, "decode": 7}
    usage = generation.usage()
    assert (usage.steps, usage.cached_steps, usage.images, usage.pixels) == (7, 2, 1, 512)
    assert usage.device_time_us == 77


def test_what_a_checkpoint_brings_is_counted_once() -> None:
    of = job("1", seeds=(1, 2), steps=4)
    first = Generation(of, now_us=0)
    first.stepped(0, state(of, 4))
    first.stepped(1, state(of, 2, cached_steps=1))
    first.outputs[0] = output = Output(b"", "image/png", 32, 16, 1)
    first.busy_us["denoise"] = 60
    second = Generation(of, now_us=0)
    first.mark("wait", now_us=7)
    first.mark("denoise", now_us=90)
    saved = Saved((output, state(of, 2, cached_steps=1)), first.usage(), first.stages())
    assert second.begin(*saved, now_us=50) == 6
    assert second.usage() == first.usage()
    second.mark("denoise", now_us=60)
    assert second.stages() == (Stage("wait", 7), Stage("denoise", 83 + 60))
    second.stepped(1, state(of, 3, cached_steps=2))
    second.busy_us["denoise"] = 10
    usage = second.usage()
    assert (usage.steps, usage.cached_steps, usage.images, usage.denoise_us) == (7, 2, 1, 70)
    assert second.progress(now_us=60) == Progressed("1", 7, 8, 10)


def test_a_row_is_done_after_its_last_step() -> None:
    of = job("1", steps=2)
    rows = [Row(Generation(of, now_us=0), 0, state(of, step, latents=torch.zeros(1)), 0) for step in (1, 2)]
    assert [row.is_done for row in rows] == [False, True]
    assert rows[0].model == "counting"
