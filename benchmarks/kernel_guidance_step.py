"""What do the guidance step and its compilation cost, beside what a scheduler object does row by row?

`python benchmarks/kernel_guidance_step.py [--quick] --json FILE`. Without a GPU it times the compiler and the torch reference only, and
says so; `gpu_*` figures appear where there is a CUDA device.
"""

import functools
import os
import statistics
import tempfile
import time
from collections.abc import Callable

import _report
import torch
from torch import Tensor

from darkroom_kernels import bench, nvrtc, ops, testing
from darkroom_kernels.guidance_step import launch, shapes

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")


def main() -> None:
    """Run what this machine can run."""
    options = _report.arguments(__doc__)
    repeats = 5 if options.quick else 50
    tables = {"CPU: one step of a batch, microseconds": reference_rows(repeats)}
    if nvrtc.available():
        tables["compilation by NVRTC, milliseconds"] = compile_rows()
    notes = "No CUDA device: the kernel itself was not timed."
    if torch.cuda.is_available():
        tables["GPU: one step of a batch, microseconds"] = gpu_rows()
        notes = ""
    figures = {
        f"{row[key]}_{column}".replace(",", "").replace(" ", "_"): value
        for rows in tables.values()
        for row in rows
        for key in [next(iter(row))]
        for column, value in row.items()
        if isinstance(value, float)
    }
    _report.finish(options.json, name="kernel_guidance_step", figures=figures, tables=tables, notes=notes)


def reference_rows(repeats: int) -> list[dict[str, str | float]]:
    """Time the operation on the CPU beside a loop over rows with numbers read on the host, as a scheduler object does it."""
    rows: list[dict[str, str | float]] = []
    for name, shape in {"pocket 64x64, batch 8": (8, 64, 16), **shapes.BENCHMARK_SHAPES}.items():
        x, v_pos, v_neg = (testing.draw_like(torch.empty(shape), seed=seed) for seed in range(3))
        sigma, sigma_next, guidance = (testing.draw_like(torch.empty(shape[0]), seed=seed) for seed in range(3, 6))
        step = (x, v_pos, v_neg, sigma, sigma_next, guidance)
        batched = _median_us(functools.partial(ops.guidance_step, *step), repeats)
        looped = _median_us(functools.partial(row_by_row, *step), repeats)
        rows.append({"shape": name, "cpu_us": batched, "row_by_row_us": looped, "ratio": looped / batched})
    return rows


def row_by_row(x: Tensor, v_pos: Tensor, v_neg: Tensor, sigma: Tensor, sigma_next: Tensor, guidance: Tensor) -> Tensor:
    """The baseline: each row by itself, its sigma and guidance as Python numbers (on a GPU each read would synchronise)."""
    moved = []
    for row in range(x.shape[0]):
        velocity = v_neg[row] + guidance[row].item() * (v_pos[row] - v_neg[row])
        moved.append(x[row] + (sigma_next[row].item() - sigma[row].item()) * velocity)
    return torch.stack(moved)


def compile_rows() -> list[dict[str, str | float]]:
    """Time one build per architecture with an empty cache, then again from the cache."""
    macros = launch.defines(
        x_dtype=torch.float32, v_dtype=torch.bfloat16, row_elements=4096 * 64, vector=8, guided=True
    )

    def build(arch: str) -> float:
        start = time.perf_counter()
        nvrtc.compile(launch.SOURCE_PATH, arch=arch, defines=macros)
        return (time.perf_counter() - start) * 1e3

    build("sm_75")  # loads the compiler
    return [{"architecture": arch, "cold_ms": build(arch), "cached_ms": build(arch)} for arch in ARCHITECTURES]


def gpu_rows() -> list[dict[str, str | float]]:
    """Time the kernel beside torch, eager and compiled, on this machine's GPU."""
    timings = [bench.time_guidance_step(name, shape, torch.bfloat16) for name, shape in shapes.BENCHMARK_SHAPES.items()]
    return [
        {
            "shape": timing.name,
            "gpu_kernel_us": timing.kernel_us,
            "gpu_eager_us": timing.eager_us,
            "gpu_compiled_us": timing.compiled_us,
        }
        for timing in timings
    ]


def _median_us(call: Callable[[], Tensor], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e6)
    return statistics.median(times)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache:
        os.environ["DARKROOM_KERNEL_CACHE_DIR"] = cache
        main()
