"""Freezes the names that a caller may use."""

import torch

from darkroom_kernels import ops


def test_operations_are_what_they_were() -> None:
    assert ops.__all__ == ["guidance_step"]
    assert all(callable(getattr(ops, name)) for name in ops.__all__)
    assert all(hasattr(torch.ops.darkroom, name) for name in ops.__all__)
