"""How many generations does the whole platform make, what does it cost beside the engine, and are the books right?

`python benchmarks/load.py [--quick] [--chaos] --json FILE`: 200 generations (40 if quick) of pocket-image at concurrency 32, through real
gRPC, PostgreSQL and processes; with `--chaos` the runner is killed twice, the scheduler once and PostgreSQL restarted once on the way.
Afterwards every charge and every sum of the ledger is checked. The baseline, in the same run: the same pictures by
`diffusers.FluxPipeline`, one at a time in order of arrival.
"""

import asyncio
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

import _report
import diffusers
import numpy as np
import PIL.Image
import torch

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from darkroom import catalog, client
from tests import platforms
from tests.chaos import kills
from tests.journeys import load

CONCURRENCY = 32
STEPS = 8
ALONE = 10  # requests sent one at a time, to see what one costs outside the engine
COMPARED = 4


class Run(NamedTuple):
    """What a crowd of generations took."""

    latencies_s: list[float]
    wall_s: float


def main() -> None:
    """Measure the platform, then the baseline, on a machine that is free for each."""
    options = _report.arguments(__doc__, flags={"chaos": "kill processes on the way"})
    count = 40 if options.quick else 200
    with tempfile.TemporaryDirectory(prefix="darkroom-load-") as folder:
        home = pathlib.Path(folder) / "home"
        with platforms.running(home) as platform:
            ours, figures, pictures = asyncio.run(crowd(platform, count=count, chaos=options.chaos))
        baseline, expected = one_at_a_time(count)
    figures |= measured(ours, count) | {f"baseline_{name}": value for name, value in measured(baseline, count).items()}
    figures["throughput_ratio"] = figures["generations_per_s"] / figures["baseline_generations_per_s"]
    figures["pixel_difference_max"] = float(max(np.abs(a - b).max() for a, b in zip(pictures, expected, strict=True)))
    columns = ("generations_per_s", "latency_s_p50", "latency_s_p95", "wall_s")
    rows = [
        {"made by": name, **{column: figures[f"{prefix}{column}"] for column in columns}}
        for name, prefix in (("the platform", ""), ("FluxPipeline, one at a time", "baseline_"))
    ]
    title = f"{count} generations of {STEPS} steps, {CONCURRENCY} at a time{', with kills' if options.chaos else ''}"
    books = [{"figure": name, "value": value} for name, value in figures.items()]
    _report.finish(
        options.json,
        name="load_chaos" if options.chaos else "load",
        figures=figures,
        tables={title: rows, "all": books},
    )


async def crowd(
    platform: platforms.Platform, *, count: int, chaos: bool
) -> tuple[Run, dict[str, float], list[np.ndarray]]:
    """Serve the crowd and audit the books; AssertionError if anything was lost, doubled or off by a nano-unit."""
    tenant = await load.new_tenant(platform, "crowd")
    async with platform.tenant() as other:
        alone = await load.shoot(other, count=1 + ALONE, concurrency=1, steps=STEPS)  # the first one loads the model
    async with platform.tenant(tenant.api_key) as darkroom:
        ended: list[load.Shot] = []
        started_s = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            shooting = tasks.create_task(
                load.shoot(darkroom, count=count, concurrency=CONCURRENCY, steps=STEPS, progress=ended)
            )
            if chaos:
                tasks.create_task(kills.befall(platform, done=lambda: len(ended), count=count))
        wall_s = time.monotonic() - started_s
        shots = shooting.result()
        pictures = [await _download(darkroom, shot) for shot in shots[:COMPARED]]
    assert load.all_succeeded(shots)
    await load.audit(platform, tenant, shots)
    busy_s = sum(shot.generation.usage.gpu_time_us for shot in shots) / 1e6
    figures = {
        "succeeded": float(len(shots)),
        "charges": float(len(shots)),
        "ledger_violations": 0.0,
        "attempts": float(sum(shot.generation.attempts for shot in shots)),
        "device_busy_share": busy_s / wall_s,
        "overhead_ms_p50": statistics.median(map(_overhead_ms, alone[1:])),
    }
    return Run([shot.latency_s for shot in shots], wall_s), figures, pictures


def one_at_a_time(count: int) -> tuple[Run, list[np.ndarray]]:
    """Make the same pictures by the pipeline, each when its turn comes; a request arrives when one of 32 callers is free."""
    models = os.environ.get("DARKROOM_CATALOG_DIR") or pathlib.Path(catalog.__file__).parent / "models"
    entry = catalog.load(pathlib.Path(models))[load.MODEL]
    diffusers.utils.logging.disable_progress_bar()
    pipeline = diffusers.FluxPipeline.from_pretrained(entry.directory, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    _paint(pipeline, entry, 0)
    ends_s: list[float] = []
    pictures = []
    started_s = time.monotonic()
    for number in range(count):
        pictures.append(_paint(pipeline, entry, number))
        ends_s.append(time.monotonic() - started_s)
    arrivals_s = [0.0] * min(CONCURRENCY, count) + ends_s[: max(0, count - CONCURRENCY)]
    latencies_s = [end - arrival for end, arrival in zip(ends_s, arrivals_s, strict=True)]
    return Run(latencies_s, ends_s[-1]), pictures[:COMPARED]


def measured(run: Run, count: int) -> dict[str, float]:
    """Throughput and latencies."""
    return {
        "generations_per_s": count / run.wall_s,
        "latency_s_p50": _percentile(run.latencies_s, 50),
        "latency_s_p95": _percentile(run.latencies_s, 95),
        "wall_s": run.wall_s,
    }


def _paint(pipeline: diffusers.FluxPipeline, entry: catalog.ModelEntry, number: int) -> np.ndarray:
    image = load.request(number, steps=STEPS).image
    with torch.inference_mode():
        made = pipeline(
            image.prompt,
            width=entry.defaults.width,
            height=entry.defaults.height,
            num_inference_steps=image.steps,
            max_sequence_length=entry.max_sequence_length,
            generator=torch.Generator("cpu").manual_seed(image.seed),
        ).images[0]
    return np.asarray(made, dtype=np.int16)


async def _download(darkroom: client.AsyncClient, shot: load.Shot) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "picture.png"
        await darkroom.download(shot.generation.artifacts[0], path)
        with PIL.Image.open(path) as image:
            return np.asarray(image.convert("RGB"), dtype=np.int16)


def _overhead_ms(shot: load.Shot) -> float:
    stages = shot.generation.stages
    engine_us = stages.load_us + stages.prepare_us + stages.denoise_us + stages.decode_us + stages.encode_us
    return shot.latency_s * 1e3 - engine_us / 1e3


def _percentile(values: Sequence[float], percent: int) -> float:
    return float(np.percentile(values, percent))


if __name__ == "__main__":
    main()
