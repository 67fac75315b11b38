from typing import Any

from darkroom.model_runner.engine.generation import Generation
from darkroom.model_runner.engine.job import Output, Progressed, Stage


def test_wall_clock_time_is_counted_by_stage(make_job: Any) -> None:
    generation = Generation(make_job("1"), now_us=100)
    for stage, now_us in (("wait", 110), ("denoise", 150), ("decode", 152), ("denoise", 160), ("decode", 163)):
        generation.mark(stage, now_us=now_us)
    assert generation.stages() == (Stage("wait", 10), Stage("denoise", 48), Stage("decode", 5))


def test_progress_is_the_steps_of_all_images_and_the_rest_at_their_pace(make_job: Any) -> None:
    generation = Generation(make_job("1", steps=10, seeds=(1, 2)), now_us=0)
    generation.ready_us = 1000
    generation.stepped(0, 3)
    generation.stepped(1, 2)
    assert generation.progress(now_us=2000) == Progressed("1", 5, 20, 3000)


def test_usage_counts_steps_and_finished_images(make_job: Any) -> None:
    generation = Generation(make_job("1", seeds=(1, 2)), now_us=0)
    generation.stepped(0, 4)
    generation.stepped(1, 3)
    generation.outputs[0] = Output(b"", "image/png", 32, 16, 1)
    generation.busy_us |= {"denoise": 70, "decode": 7}
    usage = generation.usage()
    assert (usage.steps, usage.images, usage.pixels, usage.device_time_us) == (7, 1, 512, 77)
