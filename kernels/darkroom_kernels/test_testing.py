"""Proves that the comparison notices each way in which a kernel can be wrong."""

import torch
from torch import Tensor

from darkroom_kernels import testing

TOLERANCE = testing.Tolerance(relative=1e-6, absolute=1e-6)


def expected_and_poisoned() -> tuple[Tensor, testing.Poisoned]:
    expected = testing.draw_like(torch.empty(3, 5), seed=1)
    return expected, testing.poison_like(expected)


def test_drawn_values_are_repeatable_and_never_zero() -> None:
    example = torch.zeros(100, dtype=torch.bfloat16)
    drawn = testing.draw_like(example, seed=3)
    assert drawn.dtype == example.dtype
    assert bool((drawn != 0).all())
    assert torch.equal(drawn, testing.draw_like(example, seed=3))
    assert not torch.equal(drawn, testing.draw_like(example, seed=4))


def test_right_output_passes() -> None:
    expected, poisoned = expected_and_poisoned()
    poisoned.out.copy_(expected)
    assert testing.difference(poisoned, expected, TOLERANCE) == ""


def test_wrong_element_is_found() -> None:
    expected, poisoned = expected_and_poisoned()
    poisoned.out.copy_(expected)
    poisoned.out[1, 2] += 0.5
    assert testing.difference(poisoned, expected, TOLERANCE) == "1 of 15 elements differ, the worst by 0.5"


def test_unwritten_element_is_found() -> None:
    expected, poisoned = expected_and_poisoned()
    poisoned.out[:2].copy_(expected[:2])
    assert "5 of 15 elements are NaN or were never written" in testing.difference(poisoned, expected, TOLERANCE)


def test_write_beside_the_output_is_found() -> None:
    expected, poisoned = expected_and_poisoned()
    poisoned.out.copy_(expected)
    poisoned.guards[1][0] = 1.0
    assert testing.difference(poisoned, expected, TOLERANCE) == "it wrote outside its output"


def test_poisoned_output_keeps_alignment() -> None:
    for dtype in (torch.float16, torch.float32):
        assert testing.poison_like(torch.empty(7, dtype=dtype)).out.data_ptr() % 16 == 0
