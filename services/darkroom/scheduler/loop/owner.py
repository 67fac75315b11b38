"""Which pools this replica owns.

`server` starts `run` in the background of every replica. It renews what it owns, claims pools that nobody owns (or whose owner went
silent, but only once the database has been up for a whole lease: before that, silence proves nothing), and runs a `Pool` for each.
When the replica stops, it hands its pools back, so that the next owner need not wait.
"""

import asyncio
import logging
import secrets
import socket
import time

from darkroom import errors
from darkroom.scheduler import leases
from darkroom.scheduler.domain import fleet
from darkroom.scheduler.loop.pool import Pool
from darkroom.scheduler.loop.tenure import Setup
from darkroom.scheduler.store import fleet as fleet_store
from darkroom.scheduler.store import pools

LOOKS_PER_RENEWAL = 4
RELEASE_S = 2.0
SWEEP_S = 600.0

__all__ = ["Owner", "Setup", "run"]

_log = logging.getLogger(__name__)


async def run(setup: Setup) -> None:
    """Own pools until cancelled."""
    await Owner(setup).run()


class Owner:
    """This replica's ownerships."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._config = setup.config
        self._owner_id = f"{socket.gethostname()}-{secrets.token_hex(8)}"
        self._pools = pools.Pools(setup.database, lease_s=self._config.lease_s)
        self._fleet = fleet_store.Fleet(setup.database)
        self._owned: dict[fleet.Fence, asyncio.Task[None]] = {}
        self._away = False
        self._returned_s = -float("inf")
        self._renewed_s = self._swept_s = -float("inf")

    async def run(self) -> None:
        """Renew and claim until cancelled, then hand back."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    await self._look(tasks)
                    await asyncio.sleep(self._config.renew_interval_s / LOOKS_PER_RENEWAL)
        finally:
            await self._hand_back()

    async def _look(self, tasks: asyncio.TaskGroup) -> None:
        try:
            await self._reap()
            await self._renew()
            await self._claim(tasks)
            await self._sweep()
        except errors.DarkroomError as error:
            _log.info("the pools cannot be looked after now", extra={"reason": error.reason})
            self._away = True
            return
        if self._away:
            self._away = False
            self._returned_s = time.monotonic()

    async def _reap(self) -> None:
        """Give up pools whose task has ended: deposed, or by a fault of ours, after which the pool is taken afresh."""
        for fence, task in list(self._owned.items()):
            if task.done():
                del self._owned[fence]
                await self._pools.release(fence)

    async def _renew(self) -> None:
        now_s = time.monotonic()
        if not self._owned or now_s - self._renewed_s < self._config.renew_interval_s:
            return
        held = await self._pools.renew(list(self._owned))
        self._renewed_s = now_s
        for fence in set(self._owned) - held:
            _log.warning("a pool was taken over by another replica", extra={"pool": fence.pool, "epoch": fence.epoch})
            self._owned.pop(fence).cancel()

    async def _claim(self, tasks: asyncio.TaskGroup) -> None:
        outlook = await self._pools.outlook()
        lease_s = self._config.lease_s
        settled = not self._away and outlook.up_s > lease_s and time.monotonic() - self._returned_s > lease_s
        mine = {fence.pool for fence in self._owned}
        others = [standing for standing in outlook.standings if standing.pool not in mine]
        for pool in leases.claimable(others, settled=settled):
            if fence := await self._pools.claim(pool, self._owner_id):
                _log.info("took a pool", extra={"pool": pool, "epoch": fence.epoch})
                self._owned[fence] = tasks.create_task(self._own(fence))
        for fence in [fence for fence in self._owned if fence.pool not in {s.pool for s in outlook.standings}]:
            self._owned.pop(fence).cancel()
            await self._pools.release(fence)

    async def _own(self, fence: fleet.Fence) -> None:
        try:
            await Pool(self._setup, fence).run()
        except Exception:  # `_reap` gives the pool up, and it is taken afresh
            _log.exception("a pool's owner failed", extra={"pool": fence.pool})

    async def _sweep(self) -> None:
        if time.monotonic() - self._swept_s > SWEEP_S:
            await self._fleet.sweep()
            self._swept_s = time.monotonic()

    async def _hand_back(self) -> None:
        try:
            async with asyncio.timeout(RELEASE_S):
                for fence in self._owned:
                    await self._pools.release(fence)
        except (TimeoutError, errors.DarkroomError):
            _log.info("the pools were not handed back; their leases will run out")
