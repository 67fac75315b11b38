"""Times each kernel against torch, eager and compiled, in the same run: `python -m darkroom_kernels.bench`.

In: the kernels' benchmark shapes. Out: a table with the ratio to each baseline, and the share of the device's own copy rate.
Needs a CUDA device and says so without one: a reference's time on a CPU says nothing about a kernel.
"""
# ruff: noqa: T201 - a table is its output

import itertools
import statistics
import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from darkroom_kernels import dispatch, ops, testing
from darkroom_kernels.guidance_step import KERNEL, shapes

_REPEATS = 50
_COPY_BYTES = 2**30


class Timing(NamedTuple):
    """Median times of one shape, in microseconds, and the bytes that it must at least move."""

    name: str
    dtype: torch.dtype
    kernel_us: float
    eager_us: float
    compiled_us: float
    bytes_moved: int


def main() -> int:
    """Print the table; exit status 1 without a CUDA device or when a kernel was not admitted."""
    if not torch.cuda.is_available():
        print("bench needs a CUDA device, and there is none here: no figure is printed", file=sys.stderr)
        return 1
    timings = [
        time_guidance_step(name, shape, dtype)
        for name, shape in shapes.BENCHMARK_SHAPES.items()
        for dtype in (torch.float32, torch.bfloat16)
    ]
    for line in table(timings, copy_bytes_per_us=copy_rate()):
        print(line)
    refused = {key: verdict.reason for key, verdict in dispatch.verdicts().items() if not verdict.admitted}
    for key, reason in refused.items():
        print(f"disabled: {key}: {reason}", file=sys.stderr)
    return 1 if refused else 0


def table(timings: list[Timing], *, copy_bytes_per_us: float) -> list[str]:
    """Return the printed lines: times, ratios to both baselines (above 1: the kernel is faster), share of the copy rate."""
    lines = [f"{'shape':28}{'dtype':>10}{'kernel us':>12}{'/ eager':>10}{'/ compile':>11}{'of copy rate':>14}"]
    for timing in timings:
        share = timing.bytes_moved / timing.kernel_us / copy_bytes_per_us
        lines.append(
            f"{timing.name:28}{str(timing.dtype).removeprefix('torch.'):>10}{timing.kernel_us:12.2f}"
            f"{timing.eager_us / timing.kernel_us:10.2f}{timing.compiled_us / timing.kernel_us:11.2f}{share:14.0%}"
        )
    return lines


def time_guidance_step(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Timing:
    """Time one benchmark shape with guidance, predictions in `dtype`, latents in float32."""
    x = testing.draw_like(torch.empty(shape, device="cuda"), seed=0)
    v_pos, v_neg = (testing.draw_like(x.to(dtype), seed=seed) for seed in (1, 2))
    sigma, sigma_next, guidance = (testing.draw_like(x.flatten(1)[:, 0], seed=seed) for seed in (3, 4, 5))
    arguments = (x, v_pos, v_neg, sigma, sigma_next, guidance)
    torch.compiler.reset()  # after eight shapes of one function it would give up and run it as it is
    compiled = torch.compile(KERNEL.reference, dynamic=False)
    return Timing(
        name=name,
        dtype=dtype,
        kernel_us=median_us(lambda: ops.guidance_step(*arguments)),
        eager_us=median_us(lambda: KERNEL.reference(*arguments)),
        compiled_us=median_us(lambda: compiled(*arguments)),
        bytes_moved=2 * x.nbytes + v_pos.nbytes + v_neg.nbytes,
    )


def copy_rate() -> float:
    """Return the device's own copy rate, read plus written, in bytes per microsecond."""
    source = torch.empty(_COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * _COPY_BYTES / median_us(lambda: target.copy_(source))


def median_us(call: Callable[[], Tensor]) -> float:
    """Return the median time of `call` on the device, in microseconds, from a captured graph: launch costs excluded."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    marks = [torch.Event("cuda", enable_timing=True) for _ in range(_REPEATS + 1)]
    marks[0].record()
    for mark in marks[1:]:
        graph.replay()
        mark.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) * 1000 for start, end in itertools.pairwise(marks))


if __name__ == "__main__":
    sys.exit(main())
