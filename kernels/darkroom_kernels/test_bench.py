"""Proves what the benchmark prints, and that it claims nothing without a GPU."""

import pytest
import torch

from darkroom_kernels import bench


def test_ratios_are_baseline_over_kernel() -> None:
    timing = bench.Timing(
        name="a shape", dtype=torch.bfloat16, kernel_us=2.0, eager_us=9.0, compiled_us=3.0, bytes_moved=4_000_000
    )
    header, line = bench.table([timing], copy_bytes_per_us=4_000_000.0)
    assert header.split()[:2] == ["shape", "dtype"]
    assert line.split() == ["a", "shape", "bfloat16", "2.00", "4.50", "1.50", "50%"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_figure_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main() == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "needs a CUDA device" in printed.err
