"""Proves that the emulation runs every thread once, with CUDA's indices, and rounds half types as CUDA does."""

from pathlib import Path

import torch

from darkroom_kernels import emulate

SOURCE = """
#include <cuda_bf16.h>
extern "C" __global__ void visit(long long* visits, __nv_bfloat16* rounded, const float* values, long long count) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    visits[i] += 100 * blockIdx.x + threadIdx.x + 1;
    rounded[i] = __float2bfloat16_rn(SCALE * values[i]);
}
"""


def test_every_thread_runs_once(tmp_path: Path) -> None:
    source = tmp_path / "visit.cu"
    source.write_text(SOURCE)
    run = emulate.compile(source, kernel="visit", defines={"SCALE": "0.5f"}, directory=tmp_path)
    visits = torch.zeros(8, dtype=torch.int64)
    rounded = torch.full((8,), torch.nan, dtype=torch.bfloat16)
    values = torch.linspace(0.1, 3.3, 8)
    run(visits, rounded, values, 7, grid=3, block=3)
    assert visits.tolist() == [1, 2, 3, 101, 102, 103, 201, 0]
    assert torch.equal(rounded[:7], (values[:7] * 0.5).bfloat16())
    assert rounded[7].isnan()
