"""How a kernel is held against its reference: drawn inputs, poisoned outputs, tolerances by dtype.

In: example arguments and an output's shape. Out: random arguments of the same kind, an output that betrays what was left
unwritten or written beside it, and a sentence about the difference. Next: `dispatch` judges with these, and so do the tests.
"""

from typing import NamedTuple

import torch
from torch import Tensor

_GUARD_ELEMENTS = 256  # on each side; a multiple of 16 bytes for every dtype, so the output keeps its alignment


class Tolerance(NamedTuple):
    """How far an element may be from the reference: `absolute + relative * |reference|`."""

    relative: float
    absolute: float


class Poisoned(NamedTuple):
    """An output filled with NaN, between two guards filled with NaN."""

    out: Tensor
    guards: tuple[Tensor, Tensor]


def draw_like(example: Tensor, *, seed: int) -> Tensor:
    """Return standard normal values with the shape, dtype and device of `example`: never zeros, the same for the same seed."""
    generator = torch.Generator(device=example.device).manual_seed(seed)
    return torch.randn(example.shape, generator=generator, device=example.device).to(example.dtype)


def poison_like(example: Tensor) -> Poisoned:
    """Return a contiguous output of NaN with the shape, dtype and device of `example`, guarded on both sides."""
    count = example.numel()
    whole = torch.full((count + 2 * _GUARD_ELEMENTS,), torch.nan, dtype=example.dtype, device=example.device)
    middle = whole[_GUARD_ELEMENTS : _GUARD_ELEMENTS + count]
    return Poisoned(out=middle.view(example.shape), guards=(whole[:_GUARD_ELEMENTS], whole[_GUARD_ELEMENTS + count :]))


def difference(poisoned: Poisoned, expected: Tensor, tolerance: Tolerance) -> str:
    """Return why the output is not `expected`, in one sentence; empty when it is, within the tolerance."""
    if not all(bool(guard.isnan().all()) for guard in poisoned.guards):
        return "it wrote outside its output"
    unwritten = int((poisoned.out.isnan() & ~expected.isnan()).sum())
    if unwritten:
        return f"{unwritten} of {expected.numel()} elements are NaN or were never written"
    error = (poisoned.out.double() - expected.double()).abs()
    wrong = int((error > tolerance.absolute + tolerance.relative * expected.double().abs()).sum())
    if wrong:
        return f"{wrong} of {expected.numel()} elements differ, the worst by {error.max().item():.3g}"
    return ""
