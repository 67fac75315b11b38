"""What one ownership of a pool writes.

The pool and its helpers come here with everything that must be durable; each write carries the fence. A write refused as STALE_OWNER
means that another replica owns the pool: `deposed` is then set, and nothing more is written. What is kept in memory (the `Roster`)
follows what was committed.
"""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, TypeVar

from darkroom import catalog, errors, postgres
from darkroom.scheduler import poison, price
from darkroom.scheduler.config import Config
from darkroom.scheduler.domain import fleet
from darkroom.scheduler.domain import generation as domain
from darkroom.scheduler.loop import outcomes
from darkroom.scheduler.loop.roster import Aboard, Roster
from darkroom.scheduler.store import attempts, bell, checkpoints

RETRY_S = 0.2

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Setup(NamedTuple):
    """What the owner of pools works with."""

    config: Config
    database: postgres.Database
    catalog: Mapping[str, catalog.ModelEntry]
    bell: bell.Bell


class Tenure:
    """One ownership: its fence, what is aboard, and the writes that keep both true."""

    def __init__(self, setup: Setup, fence: fleet.Fence) -> None:
        self.fence = fence
        self.roster = Roster()
        self.deposed = False
        self.astray = False  # the database may know attempts that the roster does not
        self._attempts = attempts.Attempts(setup.database, charging=price.charging(setup.catalog.values()))
        self._checkpoints = checkpoints.Checkpoints(setup.database)
        self._bell = setup.bell
        self._limits = poison.Limits(setup.config.attempts_max, setup.config.solo_deaths_max)

    async def try_(self, act: Callable[[], Awaitable[_T]]) -> _T | None:
        """Do it; None if the database does not take it now, or never will from us."""
        try:
            return await act()
        except errors.DarkroomError as error:
            self.deposed = self.deposed or error.reason == "STALE_OWNER"
            _log.info("a write of the pool was refused", extra={"pool": self.fence.pool, "reason": error.reason})
            return None

    async def persist(self, act: Callable[[], Awaitable[_T]]) -> _T | None:
        """Do it until the database takes it; None only if the pool is another's by now."""
        while not self.deposed:
            if (result := await self.try_(act)) is not None:
                return result
            await asyncio.sleep(RETRY_S)
        return None

    async def adopt(self) -> None:
        """Take over what the database says is running."""
        for attempt in await self._attempts.running(self.fence.pool):
            self.roster.add(Aboard(attempt, stream=0, work_us=attempt.work_us))

    async def begin(self, placements: list[fleet.Placement]) -> list[fleet.Begun]:
        """Commit placements; those that could be begun."""
        try:
            begun = await self._attempts.begin(self.fence, placements)
        except errors.DarkroomError:
            self.astray = True  # whether the commit took effect is unknown
            raise
        self._bell.ring()
        return begun

    async def finish(self, key: fleet.Key, ending: outcomes.Ending) -> bool:
        """Commit an end; False if the attempt is not current, which changes nothing."""
        finished = await self._attempts.finish(self.fence, key, ending)
        self.roster.drop(key)
        self._bell.ring()
        return finished is not None

    async def give_back(self, keys: list[fleet.Key]) -> list[domain.Generation]:
        """End attempts that failed through no fault of their requests, so that they are placed again."""
        return await self._give_back(keys, poison.RUNNER_FAULT, self._after_fault)

    async def suspend(self, key: fleet.Key, *, drained: bool) -> list[domain.Generation]:
        """End an attempt that was put aside, so that it is placed again; `keep` its checkpoint before."""
        judge = functools.partial(self._after_suspension, drained=drained)
        return await self._give_back([key], poison.SUSPENDED, judge)

    async def keep(self, checkpoint: fleet.Checkpoint) -> bool:
        """Commit where an attempt can be gone on with; False if it is not current."""
        return await self._checkpoints.keep(checkpoint)

    async def bury(self, runner_id: str) -> None:
        """Declare a runner dead for ever; what was aboard is placed again, alone."""
        moved = await self._attempts.lose_runner(self.fence, runner_id, judge=self._after_death)
        _log.warning("a runner was lost", extra={"runner_id": runner_id, "generations": len(moved)})
        for aboard in self.roster.of(runner_id):
            self.roster.drop(aboard.attempt.key)
        self._bell.ring()

    async def find_astray(self, *, committing: set[fleet.Key]) -> None:
        """After a commit whose outcome is unknown: what runs by the database but was never sent is placed again."""
        if not self.astray:
            return
        rows = {attempt.key for attempt in await self._attempts.running(self.fence.pool)}
        known = {aboard.attempt.key for aboard in self.roster}
        for key in known - rows - committing:
            self.roster.drop(key)
        if unknown := rows - known:
            await self.give_back(sorted(unknown))
        self.astray = False

    async def due(self) -> list[attempts.Due]:
        """What was cancelled or is late."""
        return await self._attempts.due(self.fence.pool)

    async def note(self, steps: list[attempts.Step]) -> None:
        """Commit progress."""
        await self._attempts.progress(steps)
        self._bell.ring()

    async def _give_back(self, keys: list[fleet.Key], reason: str, judge: attempts.Judge) -> list[domain.Generation]:
        moved = await self._attempts.give_back(self.fence, keys, reason=reason, judge=judge)
        for key in keys:
            self.roster.drop(key)
        self._bell.ring()
        return moved

    def _after_death(self, generation: domain.Generation, solo: bool) -> poison.Verdict:
        return poison.after_death(_record(generation), solo=solo, limits=self._limits)

    def _after_fault(self, generation: domain.Generation, _solo: bool) -> poison.Verdict:
        return poison.after_fault(_record(generation), limits=self._limits)

    def _after_suspension(self, generation: domain.Generation, _solo: bool, *, drained: bool) -> poison.Verdict:
        checkpoint = checkpoints.read(generation)
        went_on = checkpoint is not None and checkpoint.step > generation.resumed_step
        return poison.after_suspension(_record(generation), forgiven=went_on or drained, limits=self._limits)


def _record(generation: domain.Generation) -> poison.Record:
    return poison.Record(generation.attempt - generation.suspensions, generation.suspect, generation.solo_deaths)
