"""Waiting with a bound, and with a word about what did not come."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

WITHIN_S = 60.0  # no passing test comes near


async def eventually(
    holds: Callable[[], Awaitable[bool]], *, within_s: float = WITHIN_S, otherwise: Callable[[], str] | None = None
) -> None:
    """Wait until a condition holds; fails after `within_s` with what `otherwise` tells."""
    end_s = time.monotonic() + within_s
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while time.monotonic() < end_s:  # also if the condition itself outlives its cancellation
                if await holds():
                    return
                await asyncio.sleep(0.02)
    code = holds.__code__  # type: ignore[attr-defined]  # conditions are functions
    where = f"{Path(code.co_filename).name}:{code.co_firstlineno}"
    pytest.fail(f"after {within_s:g} s: {otherwise() if otherwise else f'the condition at {where} does not hold'}")


async def ended(task: "asyncio.Task[Any]") -> None:
    """Wait for a task that was cancelled; its own failure is raised, and so is that it goes on."""
    await asyncio.wait([task], timeout=WITHIN_S)
    if not task.done():
        running = sorted(one.get_coro().__qualname__ for one in asyncio.all_tasks())  # type: ignore[union-attr]
        pytest.fail(f"{task.get_name()} goes on {WITHIN_S:g} s after it was cancelled; what runs: {running}")
    if not task.cancelled() and (error := task.exception()):
        raise error
