"""What is scheduling steps worth against scheduling requests?

`python benchmarks/engine_mixed.py [--quick] --json FILE`: pocket-image, a mix of 4, 28 and 50 steps, 30 % interactive, 25 % with one of
8 LoRAs, three engines in the same run on the same requests: ours; diffusers one request at a time in order of arrival; and dynamic
batching of requests as serving frameworks do it (up to 8 with equal steps and LoRA out of the oldest 8 waiting, whole batches). First
everything is there at once (throughput), then requests come at 80 % of what the request batcher can do (latencies). The baselines
switch LoRAs by our hooks, which costs them nothing; with diffusers' own they would load and fuse.
"""

import contextlib
import io
import pathlib
import queue
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import _report
import _workload
import diffusers
import numpy as np
import PIL.Image
import torch

from darkroom.model_runner.engine import adapters, engine
from darkroom.model_runner.engine import job as engine_job

BATCH_MAX = 8
LOOKS_AT = 8  # oldest waiting requests among which a request batcher finds partners
LOAD = 0.8
COUNT, QUICK = 160, 8  # requests when all come at once; twice as many when they come one by one
SEED_SATURATED, SEED_PACED = 1120, 1122  # nothing was tuned on them
THREADS = 1  # of one operation; more spin against each other on shared cores, in all three engines alike

Events: TypeAlias = "queue.SimpleQueue[engine_job.Event]"
Pick: TypeAlias = Callable[[Sequence[_workload.Request]], list[_workload.Request]]


class Place(NamedTuple):
    """Where all three engines compute."""

    device: str = "cpu"
    dtype: engine_job.Dtype = "float32"


class Served(NamedTuple):
    """When each request was ready, in seconds after the start, by its number."""

    requests: Sequence[_workload.Request]
    ends_s: dict[int, float]

    @property
    def per_s(self) -> float:
        """Requests a second, from the first arrival to the last end."""
        return len(self.requests) / max(self.ends_s.values())

    def p95_s(self, *, interactive: bool) -> float:
        """The 95th percentile of the latencies of a class."""
        chosen = [each for each in self.requests if each.interactive == interactive]
        return float(np.percentile([self.ends_s[each.number] - each.arrival_s for each in chosen], 95))


class Diffusers:
    """The baselines' pipeline, with LoRAs by hooks."""

    def __init__(self, place: Place) -> None:
        dtype = getattr(torch, place.dtype)
        self.pipeline = diffusers.FluxPipeline.from_pretrained(_workload.POCKET, local_files_only=True, dtype=dtype)
        self.pipeline.to(place.device)
        self.pipeline.set_progress_bar_config(disable=True)
        self._bank = adapters.Bank(self.pipeline.transformer, resident_max=_workload.ADAPTERS)

    @torch.inference_mode()
    def paint(self, batch: Sequence[_workload.Request]) -> list[PIL.Image.Image]:
        """Make the pictures of requests with equal parameters in one call, and their files."""
        size, uses = len(batch), [batch[0].adapter] if batch[0].adapter else []
        with self._bank.applied([uses] * size):
            images: list[PIL.Image.Image] = self.pipeline(
                [each.prompt for each in batch],
                negative_prompt=[""] * size,
                true_cfg_scale=_workload.GUIDANCE_SCALE,
                num_inference_steps=batch[0].steps,
                width=_workload.SIDE_PX,
                height=_workload.SIDE_PX,
                max_sequence_length=_workload.TEXT_TOKENS,
                generator=[torch.Generator().manual_seed(each.number) for each in batch],
            ).images
        for image in images:
            _png(image)
        return images

    def serve(self, requests: Sequence[_workload.Request], pick: Pick) -> Served:
        """Serve requests as they come, each time those that `pick` chooses of the waiting ones, oldest first."""
        ends_s, coming, waiting = dict[int, float](), list(requests), list[_workload.Request]()
        started_s = time.monotonic()
        while coming or waiting:
            now_s = time.monotonic() - started_s
            while coming and coming[0].arrival_s <= now_s:
                waiting.append(coming.pop(0))
            if not waiting:
                time.sleep(max(0.0, coming[0].arrival_s - now_s))
                continue
            batch = pick(waiting)
            self.paint(batch)
            for each in batch:
                waiting.remove(each)
                ends_s[each.number] = time.monotonic() - started_s
            _progress(len(ends_s), len(requests))
        return Served(requests, ends_s)


def one(waiting: Sequence[_workload.Request]) -> list[_workload.Request]:
    """The oldest."""
    return [waiting[0]]


def equal(waiting: Sequence[_workload.Request]) -> list[_workload.Request]:
    """The oldest, with those of the oldest few that ask for equal parameters."""
    first = waiting[0]
    same = [each for each in waiting[:LOOKS_AT] if (each.steps, each.adapter) == (first.steps, first.adapter)]
    return same[:BATCH_MAX]


def ours(requests: Sequence[_workload.Request], place: Place) -> Served:
    """Serve requests as they come by our engine, whose cost table knows nothing at first."""
    with started(place, rows_live_max=len(requests) + 1) as (running, events):
        ends_s, coming, started_s = dict[int, float](), list(requests), time.monotonic()
        while len(ends_s) < len(requests):
            now_s = time.monotonic() - started_s
            while coming and coming[0].arrival_s <= now_s:
                running.submit(_workload.job(coming.pop(0)))
            if (
                finished := next_finished(events, max(0.0, coming[0].arrival_s - now_s) if coming else None)
            ) is not None:
                ends_s[int(finished.job_key)] = time.monotonic() - started_s
                _progress(len(ends_s), len(requests))
    return Served(requests, ends_s)


def pictures(requests: Sequence[_workload.Request], place: Place) -> dict[int, bytes]:
    """Make the requests' PNGs by our engine, all in one go, by their numbers."""
    made = dict[int, bytes]()
    with started(place, rows_live_max=len(requests)) as (running, events):
        for request in requests:
            running.submit(_workload.job(request))
        while len(made) < len(requests):
            if (finished := next_finished(events, None)) is not None:
                made[int(finished.job_key)] = finished.outputs[0].data
    return made


@contextlib.contextmanager
def started(place: Place, *, rows_live_max: int) -> Iterator[tuple[engine.Engine, Events]]:
    """Our engine with the model loaded, as the baselines have it, and its events."""
    events: Events = queue.SimpleQueue()
    config = engine_job.EngineConfig(device=place.device, dtype=place.dtype, rows_live_max=rows_live_max)
    running = engine.Engine(config, [_workload.spec()], events.put)
    try:
        prompt = "a red circle on a white background"
        running.submit(_workload.job(_workload.Request(-1, 0.0, prompt, 1, interactive=True, adapter=None)))
        while next_finished(events, None) is None:
            pass
        yield running, events
    finally:
        running.close()


def next_finished(events: Events, timeout_s: float | None) -> engine_job.Finished | None:
    """The next event if it says that a picture is done; RuntimeError if one failed."""
    try:
        event = events.get(timeout=timeout_s)
    except queue.Empty:
        return None
    if isinstance(event, engine_job.Failed):
        raise RuntimeError(f"request {event.job_key} failed: {event.message}")
    return event if isinstance(event, engine_job.Finished) else None


def main() -> None:
    """Measure on this machine's CPU."""
    options = _report.arguments(__doc__)
    torch.set_num_threads(THREADS)
    count = QUICK if options.quick else COUNT
    figures, tables = compare(saturated_count=count, paced_count=2 * count, place=Place())
    _report.finish(options.json, name="engine_mixed", figures=figures, tables=tables)


def compare(
    *, saturated_count: int, paced_count: int, place: Place
) -> tuple[dict[str, float], dict[str, list[_report.Row]]]:
    """Measure the three engines saturated, then ours and the request batcher at 80 % of its capacity."""
    baseline = Diffusers(place)
    with tempfile.TemporaryDirectory(prefix="darkroom-mixed-") as folder:
        uses = _workload.write_adapters(pathlib.Path(folder), baseline.pipeline.transformer)
        at_once = _workload.requests(saturated_count, per_s=None, adapters=uses, seed=SEED_SATURATED)
        baseline.paint(at_once[:1])
        saturated = {
            "ours": _measure("ours, saturated", lambda: ours(at_once, place)),
            "one at a time": _measure("one at a time, saturated", lambda: baseline.serve(at_once, one)),
            "request batching": _measure("request batching, saturated", lambda: baseline.serve(at_once, equal)),
        }
        rate_per_s = LOAD * saturated["request batching"].per_s
        coming = _workload.requests(paced_count, per_s=rate_per_s, adapters=uses, seed=SEED_PACED)
        paced = {
            "ours": _measure("ours, paced", lambda: ours(coming, place)),
            "request batching": _measure("request batching, paced", lambda: baseline.serve(coming, equal)),
        }
    return _compared(saturated, paced, rate_per_s)


def _compared(
    saturated: dict[str, Served], paced: dict[str, Served], rate_per_s: float
) -> tuple[dict[str, float], dict[str, list[_report.Row]]]:
    p95_s = {
        (name, interactive): served.p95_s(interactive=interactive)
        for name, served in paced.items()
        for interactive in (True, False)
    }
    figures = {
        "throughput_vs_sequential": saturated["ours"].per_s / saturated["one at a time"].per_s,
        "throughput_vs_request_batching": saturated["ours"].per_s / saturated["request batching"].per_s,
        "interactive_p95_vs_request_batching": p95_s["ours", True] / p95_s["request batching", True],
        "other_p95_vs_request_batching": p95_s["ours", False] / p95_s["request batching", False],
    }
    tables: dict[str, list[_report.Row]] = {
        "everything at once": [{"engine": name, "requests_per_s": served.per_s} for name, served in saturated.items()],
        f"arrivals at {rate_per_s:.2f}/s": [
            {"engine": name, "interactive_p95_s": p95_s[name, True], "other_p95_s": p95_s[name, False]}
            for name in paced
        ],
        "figures": [{"figure": name, "value": value} for name, value in figures.items()],
    }
    return figures, tables


def _measure(label: str, serve: Callable[[], Served]) -> Served:
    print(f"{label} ...", flush=True)
    served = serve()
    print(f"\r{label}: {served.per_s:.2f} requests/s", flush=True)
    return served


def _progress(done: int, count: int) -> None:
    print(f"\r  {done}/{count}", end="", flush=True)


def _png(image: PIL.Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


if __name__ == "__main__":
    main()
