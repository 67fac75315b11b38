"""Does the device hold more after many aborted generations than before?

In: where to compute and how many generations. Out: the bytes that tensors hold on the device before and after that many were
submitted and cancelled, with and without LoRAs: some while they wait, some at one of their first steps. Next: `gpu_check`
compares.
"""

import gc
import pathlib
import random
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

import _workload
import diffusers
import engine_mixed
import torch

from darkroom.model_runner.engine import engine
from darkroom.model_runner.engine import job as engine_job

TOGETHER = 20
STEPS = 50
SEEN_MAX = 4  # steps after which the last ones are cancelled
SETTLES_WITHIN_S = 10.0  # the engine's thread lets go of its last batch a moment after it told of its end


class Held(NamedTuple):
    """Bytes of tensors on the device."""

    before_bytes: int
    after_bytes: int


def measure(place: engine_mixed.Place, count: int) -> Held:
    """Abort `count` generations, a multiple of `TOGETHER`, after as many as fill the caches."""
    draw = random.Random(0)
    with tempfile.TemporaryDirectory(prefix="darkroom-aborted-") as folder:
        uses = _workload.write_adapters(pathlib.Path(folder), _denoiser())
        asked: list[engine_job.AdapterUse | None] = [*uses, *[None] * (TOGETHER - len(uses))]
        with engine_mixed.started(place, rows_live_max=TOGETHER) as (running, events):
            _abort(running, events, asked, seen=[1] * TOGETHER)
            before_bytes = _held_after_one_more(running, events, uses[0], place, least_bytes=0)
            for done in range(0, count, TOGETHER):
                _abort(running, events, asked, seen=[draw.randint(0, SEEN_MAX) for _ in asked])
                print(f"\r  {done + TOGETHER}/{count} aborted", end="", flush=True)
            after_bytes = _held_after_one_more(running, events, uses[0], place, least_bytes=before_bytes)
    return Held(before_bytes, after_bytes)


def held_bytes(device: torch.device) -> int:
    """Bytes of all tensors that live on the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.memory_allocated(device)
    storages = {
        each.untyped_storage().data_ptr(): each.untyped_storage().nbytes()
        for each in gc.get_objects()
        if issubclass(type(each), torch.Tensor) and each.device == device
    }
    return sum(storages.values())


def _denoiser() -> torch.nn.Module:
    denoiser: torch.nn.Module = diffusers.FluxTransformer2DModel.from_pretrained(_workload.POCKET / "transformer")
    return denoiser


def _abort(
    running: engine.Engine,
    events: engine_mixed.Events,
    adapters: Sequence[engine_job.AdapterUse | None],
    *,
    seen: Sequence[int],
) -> None:
    """Submit one generation for each of `adapters`, and cancel each when it has told of so many steps."""
    left = {str(number): steps for number, steps in enumerate(seen)}
    for number, adapter in enumerate(adapters):
        running.submit(_job(number, adapter))
    for key in [key for key, steps in left.items() if steps == 0]:
        running.cancel(key)
    while left:
        event = events.get()
        if isinstance(event, engine_job.Failed):
            raise RuntimeError(f"a generation failed instead: {event.message}")
        if isinstance(event, engine_job.Cancelled):
            del left[event.job_key]
        elif isinstance(event, engine_job.Progressed) and event.steps_done == left[event.job_key]:
            running.cancel(event.job_key)


def _held_after_one_more(
    running: engine.Engine,
    events: engine_mixed.Events,
    adapter: engine_job.AdapterUse,
    place: engine_mixed.Place,
    *,
    least_bytes: int,
) -> int:
    """Finish one generation, so that the last batch leaves the same each time; look until no more than `least_bytes` are held."""
    running.submit(_job(0, adapter))
    while engine_mixed.next_finished(events, None) is None:
        pass
    deadline_s = time.monotonic() + (SETTLES_WITHIN_S if least_bytes else 1.0)
    while (held := held_bytes(torch.device(place.device))) > least_bytes and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return held


def _job(number: int, adapter: engine_job.AdapterUse | None) -> engine_job.Job:
    prompt = "a red circle on a white background"
    return _workload.job(_workload.Request(number, 0.0, prompt, STEPS, interactive=bool(number % 2), adapter=adapter))
