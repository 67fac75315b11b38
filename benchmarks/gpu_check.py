"""Everything that needs a GPU, in one command: `make gpu-check SUITE=engine|models|kernels`, each at most nine minutes.

`python benchmarks/gpu_check.py --suite engine [--device cuda|cpu] [--quick] --json FILE` needs torch, diffusers, transformers, safetensors
and cuda-python, and nothing else of Darkroom's: it imports the engine and the kernels alone. `engine`: pictures equal to diffusers' in
bfloat16 and float32, checkpoint and resume, memory after 1,000 aborted generations, the mixed batch benchmark. `models`: published
architectures at their real sizes beside diffusers eager and compiled, and their ways to host memory and back. `kernels`: every kernel
against its reference, and its time. It exits with 1 if a check fails.
"""

import dataclasses
import io
import itertools
import sys
from collections.abc import Hashable, Mapping
from typing import NamedTuple

import _aborted
import _gpu_models
import _report
import _workload
import engine_mixed
import numpy as np
import PIL.Image
import torch

from darkroom.model_runner.engine import job as engine_job
from darkroom_kernels import bench, dispatch, guidance_step, ops, testing
from darkroom_kernels.guidance_step import shapes

STEPS = (3, 28, 5, 50)
RESUMED_STEPS = 50
LEVELS_MAX = {"float32": 1.0, "bfloat16": 255.0}
LEVELS_MEAN_MAX = {"float32": 0.01, "bfloat16": 2.0}


class Levels(NamedTuple):
    """How far pictures are apart, in levels of 0 to 255."""

    highest: float
    mean: float


class Checked(NamedTuple):
    """What a suite found: figures, tables, and sentences about what failed."""

    figures: dict[str, float]
    tables: dict[str, list[_report.Row]]
    failures: list[str]


def main() -> None:
    """Run one suite."""
    options = _report.arguments(__doc__, choices={"suite": ("engine", "models", "kernels"), "device": ("cuda", "cpu")})
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu_check: torch sees no CUDA device; --device cpu --quick shows that the suites run")
    device = torch.device(options.device)
    suite = {"engine": check_engine, "models": check_models, "kernels": check_kernels}[options.suite]
    checked = suite(device, quick=options.quick)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU: nothing here is about GPU speed"
    notes = "\n".join([f"{where}; torch {torch.__version__}", *(f"FAILED: {failure}" for failure in checked.failures)])
    _report.finish(
        options.json, name=f"gpu_check_{options.suite}", figures=checked.figures, tables=checked.tables, notes=notes
    )
    sys.exit(1 if checked.failures else 0)


def check_engine(device: torch.device, *, quick: bool) -> Checked:
    """Hold pictures against diffusers', a resumed one against itself, and step scheduling against request scheduling."""
    figures, rows, failures = dict[str, float](), list[_report.Row](), list[str]()
    torch.backends.cudnn.allow_tf32 = False  # else float32 pictures would differ by what convolutions round
    for dtype in ("float32", "bfloat16"):
        place = engine_mixed.Place(str(device), dtype)
        levels = _difference(place)
        figures |= {f"parity_{dtype}_levels_max": levels.highest, f"parity_{dtype}_levels_mean": levels.mean}
        if levels.highest > LEVELS_MAX[dtype] or levels.mean > LEVELS_MEAN_MAX[dtype]:
            failures.append(f"{dtype}: pictures differ from diffusers' by up to {levels.highest:.0f} levels")
        rows.append({"dtype": dtype, "levels_max": levels.highest, "levels_mean": levels.mean})
    for dtype in ("float32", "bfloat16"):
        apart, step = _resumed(engine_mixed.Place(str(device), dtype))
        figures |= {f"resumed_{dtype}_levels_max": apart, f"resumed_{dtype}_at_step": float(step)}
        if apart > 1 or not 0 < step < RESUMED_STEPS:
            failures.append(
                f"{dtype}: resumed at step {step}, a picture is {apart:.0f} levels from the uninterrupted one"
            )
    held = _aborted.measure(engine_mixed.Place(str(device)), 2 * _aborted.TOGETHER if quick else 1000)
    figures["bytes_held_after_aborts"] = float(held.after_bytes - held.before_bytes)
    if held.after_bytes > held.before_bytes:
        failures.append(f"aborted generations left {held.after_bytes - held.before_bytes} bytes on the device")
    count = engine_mixed.QUICK if quick else 120
    mixed, tables = engine_mixed.compare(
        saturated_count=count,
        paced_count=count,
        place=engine_mixed.Place(str(device), "float32" if quick else "bfloat16"),
    )
    return Checked(figures | mixed, {"pictures of a mixed batch beside FluxPipeline's": rows, **tables}, failures)


def check_models(device: torch.device, *, quick: bool) -> Checked:
    """Time published architectures; tiny ones if quick."""
    found = _gpu_models.measure(device, tiny=quick)
    tables = {"milliseconds a step, seconds a generation": found.rows, "off the device and back": found.trips}
    return Checked(found.figures, tables, found.failures)


def check_kernels(device: torch.device, *, quick: bool) -> Checked:
    """Hold every kernel against its reference on its test shapes; on a GPU time it on its benchmark shapes."""
    failures, rows = list[str](), list[_report.Row]()
    for shape, dtypes in itertools.product(shapes.TEST_SHAPES, shapes.DTYPE_PAIRS):
        if reason := _kernel_difference(shape, dtypes, device):
            failures.append(f"guidance_step {shape} {dtypes}: {reason}")
    figures = {"kernel_signatures_checked": float(len(shapes.TEST_SHAPES) * len(shapes.DTYPE_PAIRS))}
    if device.type == "cuda":
        failures += refusals(dispatch.verdicts())
        figures["kernel_signatures_admitted"] = float(sum(each.admitted for each in dispatch.verdicts().values()))
        timings = [bench.time_guidance_step(name, shape, torch.bfloat16) for name, shape in _timed_shapes(quick)]
        rows = [
            {
                "shape": each.name,
                "kernel_us": each.kernel_us,
                "eager_us": each.eager_us,
                "compiled_us": each.compiled_us,
            }
            for each in timings
        ]
    return Checked(figures, {"guidance_step, microseconds": rows} if rows else {}, failures)


def refusals(verdicts: Mapping[tuple[str, Hashable], dispatch.Verdict]) -> list[str]:
    """Why kernels did not run; one sentence if none was even judged, since then the reference answered every call."""
    if not verdicts:
        return ["no kernel was compiled: cuda-core, NVRTC or CUDA's headers are missing"]
    return [f"{name} was disabled: {verdict.reason}" for (name, _), verdict in verdicts.items() if not verdict.admitted]


def _timed_shapes(quick: bool) -> list[tuple[str, tuple[int, ...]]]:
    return list(shapes.BENCHMARK_SHAPES.items())[: 1 if quick else None]


def _kernel_difference(shape: tuple[int, ...], dtypes: tuple[torch.dtype, torch.dtype], device: torch.device) -> str:
    latents, predicted = (torch.empty(shape, dtype=dtype, device=device) for dtype in dtypes)
    tensors = [testing.draw_like(like, seed=seed) for seed, like in enumerate((latents, predicted, predicted))]
    numbers = [testing.draw_like(torch.empty(shape[0], device=device), seed=seed) for seed in range(3, 6)]
    computed = ops.guidance_step(*tensors, *numbers)
    poisoned = testing.poison_like(computed)
    poisoned.out.copy_(computed)
    expected = guidance_step.KERNEL.reference(*(each.cpu() for each in (*tensors, *numbers))).to(device)
    return testing.difference(poisoned, expected, shapes.TOLERANCES[computed.dtype])


def _difference(place: engine_mixed.Place) -> Levels:
    """Difference in 8-bit levels between a mixed batch's pictures by our engine and the same ones by FluxPipeline."""
    requests = [
        _workload.Request(
            number, 0.0, f"a red circle left of a {colour} square on a white background", steps, False, None
        )
        for number, (steps, colour) in enumerate(zip(STEPS, ("blue", "green", "black", "purple"), strict=True))
    ]
    ours, baseline = engine_mixed.pictures(requests, place), engine_mixed.Diffusers(place)
    apart = [
        np.abs(_pixels(ours[request.number]) - np.asarray(baseline.paint([request])[0], dtype=np.int16))
        for request in requests
    ]
    return Levels(float(np.max(apart)), float(np.mean(apart)))


def _resumed(place: engine_mixed.Place) -> tuple[float, int]:
    """Levels between an uninterrupted picture and one that another engine went on with, and the step it went on at."""
    prompt = "a small cyan star above a large red ring on a black background"
    request = _workload.Request(0, 0.0, prompt, RESUMED_STEPS, interactive=False, adapter=None)
    whole, job = engine_mixed.pictures([request], place)[0], _workload.job(request)
    with engine_mixed.started(place, rows_live_max=1) as (first, events):
        first.submit(job)
        while not (isinstance(event := events.get(), engine_job.Progressed) and event.steps_done >= RESUMED_STEPS // 3):
            pass
        first.drain()
        while not isinstance(event, engine_job.Suspended):
            event = events.get()
    with engine_mixed.started(place, rows_live_max=1) as (second, events):
        second.submit(dataclasses.replace(job, checkpoint=event.data))
        while not isinstance(started := events.get(), engine_job.Started):
            pass
        while not isinstance(ended := events.get(), engine_job.Finished):
            pass
    return float(np.abs(_pixels(whole) - _pixels(ended.outputs[0].data)).max()), started.resumed_step


def _pixels(png: bytes) -> "np.ndarray[tuple[int, ...], np.dtype[np.int16]]":
    with PIL.Image.open(io.BytesIO(png)) as image:
        return np.asarray(image, dtype=np.int16)


if __name__ == "__main__":
    main()
