"""Proves the gate, with kernels whose `launch` is a Python function on CPU tensors."""

import logging
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from darkroom_kernels import dispatch, testing

Launch = Callable[[object, Tensor, Tensor], None]


@pytest.fixture(autouse=True)
def judged_anew() -> Iterator[None]:
    dispatch.forget()
    yield
    dispatch.forget()


def doubling(launch: Launch, *, runs_here: bool = True) -> dispatch.Kernel:
    """An operation that doubles, with the given implementation of it."""
    return dispatch.Kernel(
        name="doubling",
        plan=lambda x: tuple(x.shape) if runs_here else None,
        launch=launch,
        allocate=torch.empty_like,
        reference=lambda x: x * 2,
        tolerances={torch.float32: testing.Tolerance(relative=0.0, absolute=0.0)},
    )


def right(plan: object, out: Tensor, x: Tensor) -> None:
    torch.mul(x, 2, out=out)


def wrong(plan: object, out: Tensor, x: Tensor) -> None:
    torch.mul(x, 3, out=out)


def partial(plan: object, out: Tensor, x: Tensor) -> None:
    torch.mul(x[1:], 2, out=out[1:])


def overrunning(plan: object, out: Tensor, x: Tensor) -> None:
    right(plan, out, x)
    torch.as_strided(out, (1,), (1,), out.storage_offset() + out.numel()).fill_(1.0)


def failing(plan: object, out: Tensor, x: Tensor) -> None:
    raise RuntimeError("no such architecture")


def test_right_kernel_is_judged_once_and_used() -> None:
    seen: list[float] = []

    def launch(plan: object, out: Tensor, x: Tensor) -> None:
        seen.append(x[0].item())
        right(plan, out, x)

    kernel = doubling(launch)
    for _ in range(3):
        assert torch.equal(dispatch.run(kernel, torch.ones(4)), torch.full((4,), 2.0))
    assert len(seen) == 4
    assert seen[0] != 1.0
    assert seen[1:] == [1.0, 1.0, 1.0]
    assert dispatch.verdicts() == {("doubling", (4,)): dispatch.Verdict(admitted=True, reason="")}


def test_each_plan_is_judged_by_itself() -> None:
    kernel = doubling(right)
    dispatch.run(kernel, torch.ones(4))
    dispatch.run(kernel, torch.ones(5))
    assert set(dispatch.verdicts()) == {("doubling", (4,)), ("doubling", (5,))}


@pytest.mark.parametrize(
    ("launch", "reason"),
    [
        (wrong, "elements differ"),
        (partial, "never written"),
        (overrunning, "outside its output"),
        (failing, "no such architecture"),
    ],
)
def test_bad_kernel_is_disabled_loudly(launch: Launch, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    kernel = doubling(launch)
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            assert torch.equal(dispatch.run(kernel, torch.ones(4)), torch.full((4,), 2.0))
    verdict = dispatch.verdicts()[("doubling", (4,))]
    assert not verdict.admitted
    assert reason in verdict.reason
    assert len(caplog.records) == 1
    assert "kernel doubling disabled" in caplog.text
    assert reason in caplog.text


def test_unsupported_arguments_take_the_reference() -> None:
    kernel = doubling(failing, runs_here=False)
    assert torch.equal(dispatch.run(kernel, torch.ones(4)), torch.full((4,), 2.0))
    assert dispatch.verdicts() == {}
