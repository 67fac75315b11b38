"""What befalls a platform under load: the runner is killed twice, the scheduler once, and PostgreSQL restarted as by a crash once.

A platform and the count of its finished generations come in; each blow falls when its share of the work is done and the victim is
there. `test_kills` and `benchmarks/load.py --chaos` run it beside `load.shoot`.
"""

import asyncio
import time
from collections.abc import Callable

from tests import platforms

RECOVERY_S = 180.0
POLL_S = 0.1
BLOWS = ("model_runner", "scheduler", "postgres", "model_runner")


async def befall(platform: platforms.Platform, *, done: Callable[[], int], count: int) -> list[str]:
    """Deal the blows, spread over the work; those dealt."""
    dealt = []
    for number, victim in enumerate(BLOWS, start=1):
        share = count * number // (len(BLOWS) + 1)
        await _until(lambda share=share: done() >= share)  # type: ignore[misc]
        if victim == "postgres":
            await asyncio.to_thread(platform.postgres().restart, immediate=True)
        else:
            await kill(platform, victim)
        dealt.append(victim)
    return dealt


async def kill(platform: platforms.Platform, room: str) -> None:
    """SIGKILL a room's process, and wait until another runs in its place."""
    (victim,) = platform.rooms(room)
    victim.kill()
    await _until(lambda: any(process.pid != victim.pid for process in platform.rooms(room)))


async def _until(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + RECOVERY_S
    while not condition():
        assert time.monotonic() < until_s, "the platform does not go on"
        await asyncio.sleep(POLL_S)
