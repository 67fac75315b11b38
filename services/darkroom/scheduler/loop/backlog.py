"""How much waits, so that overload is refused at once and honestly.

The number of waiting generations, in all and by tenant, is counted in the database every poll interval and raised by this replica's
own creates in between; `servicer.create` asks `check` before it does anything that costs. Other replicas' creates of the last interval
are not seen, so the bound may be passed by that much and no more.
"""

import asyncio
import logging
from collections import Counter

from darkroom import errors
from darkroom.scheduler.config import Config
from darkroom.scheduler.store import generations

RETRY_AFTER_S = 5.0

_log = logging.getLogger(__name__)


class Backlog:
    """The waiting generations as this replica knows them."""

    def __init__(self, store: generations.Generations, config: Config) -> None:
        self._store = store
        self._config = config
        self._waiting: Counter[str] = Counter()

    def check(self, tenant_id: str) -> None:
        """ResourceExhausted if another generation would be too many."""
        if self._waiting.total() >= self._config.queued_generations_max:
            raise errors.ResourceExhausted("QUEUE_FULL", "too many generations wait", retry_after_s=RETRY_AFTER_S)
        if self._waiting[tenant_id] >= self._config.queued_per_tenant_max:
            raise errors.ResourceExhausted(
                "TENANT_QUEUE_FULL", "too many of the tenant's generations wait", retry_after_s=RETRY_AFTER_S
            )

    def added(self, tenant_id: str) -> None:
        """Count a create of this replica."""
        self._waiting[tenant_id] += 1

    async def run(self) -> None:
        """Count until cancelled; while the database is away the last count stands."""
        while True:
            try:
                self._waiting = Counter(await self._store.queued_by_tenant())
            except errors.DarkroomError as error:
                _log.info("the backlog was not counted", extra={"reason": error.reason})
            await asyncio.sleep(self._config.poll_interval_s)
