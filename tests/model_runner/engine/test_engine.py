"""The engine as the runner uses it: real FLUX models, its own thread, several threads that submit."""

import dataclasses
import io
import threading
import time
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import PIL.Image
import pytest
import torch

from darkroom.model_runner.engine import errors
from darkroom.model_runner.engine.job import Cancelled, Failed, Finished, Progressed, Suspended
from tests.model_runner.engine import counting

Start = Callable[..., Any]


def pixels(data: bytes) -> torch.Tensor:
    return torch.from_numpy(np.asarray(PIL.Image.open(io.BytesIO(data))).astype(np.float32) / 255)


def test_a_mixed_batch_gives_the_pictures_of_the_pipeline(record: Start, specs: Any, make_job: Any) -> None:
    jobs = [
        make_job("1", steps=3, guidance_scale=2.0, seeds=(1,)),
        make_job("2", steps=6, guidance_scale=6.0, seeds=(2, 3), negative_prompt="white background"),
        make_job("3", steps=5, guidance_scale=1.0, seeds=(4,), prompt="a green triangle"),
        make_job("4", steps=4, width=64, seeds=(5,)),
    ]
    # Loaded before the engine loads its own: from_pretrained is not made for two threads at once.
    pipeline = diffusers.FluxPipeline.from_pretrained(specs["true_cfg"].path, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    run = record(list(specs.values()))
    run.submit(*jobs)
    for job, end in zip(jobs, run.finished("1", "2", "3", "4"), strict=True):
        for seed, output in zip(job.seeds, end.outputs, strict=True):
            expected = pipeline(
                job.prompt,
                negative_prompt=job.negative_prompt,
                true_cfg_scale=job.guidance_scale,
                width=job.width,
                height=job.height,
                num_inference_steps=job.steps,
                max_sequence_length=job.max_sequence_length,
                generator=torch.Generator("cpu").manual_seed(seed),
                output_type="np",
            ).images[0]
            # Half a level of rounding to 8 bits on top of the tolerance.
            assert (pixels(output.data) - torch.from_numpy(expected)).abs().max() <= 2e-3 + 0.5 / 255
            assert (output.seed, output.width, output.height) == (seed, job.width, job.height)


def test_models_are_loaded_when_first_needed(record: Start, specs: Any, make_job: Any) -> None:
    run = record(list(specs.values()))
    assert run.engine.snapshot().models == ()
    for key, model in (("1", "true_cfg"), ("2", "embedded"), ("3", "true_cfg")):
        run.submit(make_job(key, model=model))
        (end,) = run.finished(key)
        assert ("load" in {stage.name for stage in end.stages}) == (key != "3")
    assert run.engine.snapshot().models == ("embedded", "true_cfg")
    assert run.engine.snapshot().platform_us > 0


def test_cancel_from_another_thread_while_it_steps(record: Start, specs: Any, make_job: Any) -> None:
    run = record(list(specs.values()))
    halfway = threading.Event()
    run.react = lambda event: halfway.set() if isinstance(event, Progressed) and event.steps_done == 10 else None
    run.submit(make_job("1", steps=100_000))
    assert halfway.wait(timeout=120)
    run.engine.cancel("1")
    (end,) = run.last("1")
    assert isinstance(end, Cancelled)
    assert 10 <= end.usage.steps < 100_000
    assert run.engine.is_idle


def test_the_step_after_a_cancel_is_not_run(record: Start, tmp_path: Any, make_job: Any) -> None:
    family = counting.Counting()
    run = record([counting.spec(tmp_path)], families={"counting": family.load})
    run.react = lambda event: run.engine.cancel("1") if isinstance(event, Progressed) else None
    run.submit(make_job("1", model="counting", steps=50, guidance_scale=1.0))
    (end,) = run.last("1")
    assert isinstance(end, Cancelled)
    assert end.usage.steps == len(family.forwards) == 1


def test_many_threads_submit(record: Start, tmp_path: Any, make_job: Any) -> None:
    run = record([counting.spec(tmp_path)], families={"counting": counting.Counting().load})
    keys = [f"{thread}-{index}" for thread in range(8) for index in range(25)]

    def submit(thread: int) -> None:
        for index in range(25):
            run.submit(make_job(f"{thread}-{index}", model="counting", steps=3, guidance_scale=1.0))

    threads = [threading.Thread(target=submit, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    ends = run.finished(*keys)
    for thread in threads:
        thread.join()
    snapshot = run.engine.snapshot()
    assert snapshot.busy_us == sum(end.usage.device_time_us for end in ends) + snapshot.platform_us
    assert run.engine.is_idle
    assert (snapshot.jobs_waiting, snapshot.rows_live) == (0, 0)


def test_a_key_is_held_once_until_its_end(record: Start, tmp_path: Any, make_job: Any) -> None:
    run = record([counting.spec(tmp_path)], families={"counting": counting.Counting().load})
    job = make_job("1", model="counting", steps=100_000, guidance_scale=1.0)
    run.submit(job)
    with pytest.raises(ValueError, match="already here"):
        run.submit(job)
    assert not run.engine.is_idle
    run.engine.cancel("1")
    run.last("1")
    run.submit(job)


def test_closing_fails_what_is_left_so_that_another_runner_takes_it(
    record: Start, tmp_path: Any, make_job: Any
) -> None:
    run = record([counting.spec(tmp_path)], families={"counting": counting.Counting().load}, rows_live_max=1)
    run.submit(*(make_job(key, model="counting", steps=100_000, guidance_scale=1.0) for key in "12"))
    run.engine.close()
    for end in run.last("1", "2"):
        assert isinstance(end, Failed)
        assert (end.code, end.fault) == ("RUNNER_CLOSING", "runner")
    assert not run.engine.is_alive
    with pytest.raises(errors.Closing):
        run.submit(make_job("3", model="counting"))


def test_a_lost_device_fails_everybody_and_ends_the_engine(record: Start, tmp_path: Any, make_job: Any) -> None:
    family = counting.Counting()
    family.broken = {2: torch.AcceleratorError("an illegal memory access was encountered")}
    run = record([counting.spec(tmp_path)], families={"counting": family.load})
    run.submit(make_job("1", model="counting", steps=100_000, guidance_scale=1.0, seeds=(1,)))
    run.submit(make_job("2", model="counting", guidance_scale=1.0, seeds=(2,)))
    assert {end.code for end in run.last("1", "2")} == {"DEVICE_LOST"}
    run.engine.close()
    with pytest.raises(errors.Closing):
        run.submit(make_job("3", model="counting"))


def test_after_failures_the_engine_goes_on(record: Start, specs: Any, make_job: Any) -> None:
    run = record(list(specs.values()))
    run.submit(make_job("bad", width=34), make_job("good"))
    bad, good = run.last("bad", "good")
    assert isinstance(bad, Failed)
    assert (bad.code, bad.fault) == ("REQUEST_INVALID", "request")
    assert isinstance(good, Finished)


def test_work_that_is_drained_goes_on_in_another_engine(record: Start, specs: Any, make_job: Any) -> None:
    job = make_job("1", steps=60, seeds=(3, 4))
    one, other = record(list(specs.values())), record(list(specs.values()))
    halfway = threading.Event()
    one.react = lambda event: halfway.set() if isinstance(event, Progressed) and event.steps_done >= 20 else None
    one.submit(job)
    assert halfway.wait(timeout=120)
    one.engine.drain()
    (suspended,) = one.last("1")
    assert isinstance(suspended, Suspended)
    assert one.engine.is_idle
    assert 20 <= suspended.usage.steps < 120
    other.submit(dataclasses.replace(job, key="2", checkpoint=suspended.data), dataclasses.replace(job, key="whole"))
    resumed, whole = other.finished("2", "whole")
    for ours, theirs in zip(resumed.outputs, whole.outputs, strict=True):
        assert (pixels(ours.data) - pixels(theirs.data)).abs().max() <= 1.01 / 255
    assert resumed.usage.steps == whole.usage.steps == 120


def test_costs_outlive_the_process(record: Start, tmp_path: Any, make_job: Any) -> None:
    for steps_seen, sizes_seen in ((0, 0), (10, 1)):
        run = record(
            [counting.spec(tmp_path)],
            families={"counting": counting.Counting().load},
            step_costs_path=tmp_path / "costs.json",
        )
        assert sum(cost.measured for cost in run.engine.snapshot().step_costs) == steps_seen
        assert len(run.engine.snapshot().fixed_costs) == sizes_seen
        for key in ("1", "2"):  # the first one waits for the model, so what it took is not noted
            run.submit(make_job(key, model="counting", steps=5, guidance_scale=1.0))
            run.finished(key)
        run.engine.close()


def test_who_comes_while_a_model_is_loaded_waits_from_then_on(record: Start, tmp_path: Any, make_job: Any) -> None:
    family, loading, go_on = counting.Counting(), threading.Event(), threading.Event()

    def load(spec: Any, **options: Any) -> counting.Counting:
        loading.set()
        assert go_on.wait(60)
        return family

    run = record([counting.spec(tmp_path)], families={"counting": load})
    run.submit(make_job("1", model="counting", guidance_scale=1.0))
    assert loading.wait(60)
    run.submit(make_job("2", model="counting", guidance_scale=1.0))
    time.sleep(0.2)
    go_on.set()
    first, second = run.finished("1", "2")
    assert {stage.name: stage.wall_us for stage in second.stages}["wait"] >= 200_000
    assert {stage.name: stage.wall_us for stage in first.stages}["load"] >= 200_000


def test_a_device_that_is_lost_before_a_drain_fails_everybody_all_the_same(
    record: Start, tmp_path: Any, make_job: Any
) -> None:
    family, stepping, go_on = counting.Counting(), threading.Event(), threading.Event()

    class Lost(dict[int, Exception]):
        def __contains__(self, seed: object) -> bool:
            stepping.set()
            assert go_on.wait(60)
            return True

        def __getitem__(self, seed: int) -> Exception:
            return torch.AcceleratorError("an illegal memory access was encountered")

    family.broken = Lost()
    run = record([counting.spec(tmp_path)], families={"counting": family.load})
    run.submit(make_job("1", model="counting", guidance_scale=1.0))
    assert stepping.wait(60)
    run.engine._loop.drain = lambda: 1 / 0  # as its first look at the device would
    run.engine.drain()
    go_on.set()
    assert run.last("1")[0].code == "DEVICE_LOST"
