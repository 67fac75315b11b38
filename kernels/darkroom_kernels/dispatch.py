"""Chooses, call by call, between a kernel and its torch reference.

In: a `Kernel` and the arguments of one call. Out: the result. A kernel runs where its `plan` says it can, and only after
its first use with that plan (shape, dtype, architecture) was compared with the reference on drawn inputs and a poisoned
output. A mismatch, or a failure to compile or launch, disables that plan for the life of the process, with an error in the
log, and the reference answers. Next: `verdicts` is what `darkroom_kernels.bench` and an operator look at.
"""

import logging
import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from darkroom_kernels import testing

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kernel:
    """One operation in two implementations. The callables take the operation's arguments (tensors or None) in order."""

    name: str
    plan: Callable[..., Hashable | None]
    """What must be built for these arguments, equal for calls that the same build serves; None: use the reference."""
    launch: Callable[..., None]
    """`launch(plan, out, *arguments)` fills `out` on the current stream."""
    allocate: Callable[..., Tensor]
    """An uninitialised, contiguous output; also the operation's meta implementation."""
    reference: Callable[..., Tensor]
    tolerances: Mapping[torch.dtype, testing.Tolerance]
    """By dtype of the output."""


class Verdict(NamedTuple):
    """Whether a kernel may run with a plan, and if not, why."""

    admitted: bool
    reason: str


_verdicts: dict[tuple[str, Hashable], Verdict] = {}
_judging = threading.Lock()


def run(kernel: Kernel, *arguments: Tensor | None) -> Tensor:
    """Return the operation's result, by the kernel where it may run and by the reference elsewhere."""
    plan = kernel.plan(*arguments)
    if plan is None or not _admitted(kernel, plan, arguments):
        return kernel.reference(*arguments)
    out = kernel.allocate(*arguments)
    kernel.launch(plan, out, *arguments)
    return out


def verdicts() -> dict[tuple[str, Hashable], Verdict]:
    """Return what has been judged so far in this process, by (kernel name, plan)."""
    return dict(_verdicts)


def forget() -> None:
    """Judge every kernel anew at its next use."""
    _verdicts.clear()


def _admitted(kernel: Kernel, plan: Hashable, arguments: tuple[Tensor | None, ...]) -> bool:
    key = (kernel.name, plan)
    if key not in _verdicts:
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return False  # judging synchronises, which a graph capture forbids: warm the shape up first
        with _judging:
            if key not in _verdicts:
                _verdicts[key] = _judge(kernel, plan, arguments)
    return _verdicts[key].admitted


def _judge(kernel: Kernel, plan: Hashable, arguments: tuple[Tensor | None, ...]) -> Verdict:
    try:
        reason = _compare(kernel, plan, arguments)
    except Exception as error:  # whatever the compiler or the driver raises: the request must not pay for it
        _log.exception("kernel %s disabled for %s: it failed on first use; the reference answers", kernel.name, plan)
        return Verdict(admitted=False, reason=f"it failed on first use: {error}")
    if reason:
        _log.error("kernel %s disabled for %s: %s; the reference answers", kernel.name, plan, reason)
    return Verdict(admitted=not reason, reason=reason)


def _compare(kernel: Kernel, plan: Hashable, arguments: tuple[Tensor | None, ...]) -> str:
    drawn: list[Any] = [
        None if argument is None else testing.draw_like(argument, seed=seed) for seed, argument in enumerate(arguments)
    ]
    poisoned = testing.poison_like(kernel.allocate(*arguments))
    kernel.launch(plan, poisoned.out, *drawn)
    expected = kernel.reference(*drawn)
    return testing.difference(poisoned, expected, kernel.tolerances[expected.dtype])
