"""Calls that rest at the end of each step, so that somebody else may decide when they go on.

In: a function that moves a progress bar at the end of each of its steps, as diffusers' pipelines do. Out: a `Run`, which
takes one step whenever it is asked, on a thread of its own. Next: the family `pipeline` runs whole pipelines so.
"""

import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch


class _Rest(NamedTuple):
    """Where a call rests, or how it ended."""

    steps_done: int
    steps_total: int
    result: Any = None
    error: Exception | None = None


class _Stopped(BaseException):
    """Nobody wants the result; unlike an Exception no pipeline catches it."""


class Bar:
    """What a pipeline takes for its progress bar."""

    def __init__(self, iterable: Iterable[Any] | None, total: int | None, rest: Callable[[int, int], None]) -> None:
        self._items = [] if iterable is None else list(iterable)
        self._total = len(self._items) if total is None else total
        self._done = 0
        self._rest = rest

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            yield item
            self.update()

    def update(self, steps: int = 1) -> None:
        """End a step; the thread goes on when its turn comes, or never."""
        self._done += steps
        self._rest(self._done, self._total)


class Run:
    """A call of a pipeline, step by step; dropping it stops the call where it rests."""

    def __init__(self, call: Callable[[Callable[..., Bar]], Any]) -> None:
        self._call = call
        self._turns: queue.SimpleQueue[bool] | None = None
        self._rests: queue.SimpleQueue[_Rest] = queue.SimpleQueue()
        self.result: Any = None

    def step(self) -> bool:
        """Run to the end of the next step; True if it was the last one. After a failure, begin anew."""
        if self.result is not None:
            return True
        rest = self._go()
        return rest.result is not None or rest.steps_done >= rest.steps_total

    def finish(self) -> Any:
        """Run to the end and return the result."""
        while self.result is None:
            self._go()
        return self.result

    def _go(self) -> _Rest:
        if self._turns is None:
            self._turns = queue.SimpleQueue()
            arguments = (self._call, self._turns, self._rests)
            threading.Thread(target=_live, args=arguments, name="pipeline", daemon=True).start()
            weakref.finalize(self, self._turns.put, False)
        self._turns.put(True)
        rest = self._rests.get()
        if rest.error is not None:
            self._turns = None
            raise rest.error
        self.result = rest.result
        return rest


def _live(
    call: Callable[[Callable[..., Bar]], Any],
    turns: "queue.SimpleQueue[bool]",
    rests: "queue.SimpleQueue[_Rest]",
) -> None:
    """Be the thread of a call: run when told to go on, and say where it rests."""

    def wait() -> None:
        if not turns.get():
            raise _Stopped

    def rest(steps_done: int, steps_total: int) -> None:
        rests.put(_Rest(steps_done, steps_total))
        wait()

    def bar(iterable: Iterable[Any] | None = None, total: int | None = None) -> Bar:
        return Bar(iterable, total, rest)

    try:
        wait()
        with torch.inference_mode():
            end = _Rest(0, 0, result=call(bar))
    except _Stopped:
        return
    except Exception as error:  # raised again where the loop waits for it
        end = _Rest(0, 0, error=error)
    rests.put(end)
