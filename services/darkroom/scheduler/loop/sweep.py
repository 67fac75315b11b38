"""Ends and forgets what nobody else will.

Waiting generations whose deadline has passed, or that were cancelled on a runner that then died, end here (on any replica: rows locked
by another are skipped). Old idempotency keys, answered grants and delivered outbox rows are deleted after their retention.
"""

import asyncio
import logging
import time

from darkroom import errors, postgres
from darkroom.scheduler.config import Config
from darkroom.scheduler.store import bell, creates, generations, outbox, spending

END_BATCH_MAX = 200

_log = logging.getLogger(__name__)


async def run(database: postgres.Database, the_bell: bell.Bell, config: Config) -> None:
    """Sweep until cancelled."""
    waiting = generations.Generations(database)
    forget_at_s = time.monotonic()
    while True:
        try:
            if await waiting.end_waiting(limit=END_BATCH_MAX):
                the_bell.ring()
                continue
            if time.monotonic() >= forget_at_s:
                await _forget(database, older_than_s=config.idempotency_retention_s)
                forget_at_s = time.monotonic() + config.sweep_interval_s
        except errors.DarkroomError as error:
            _log.info("the sweep waits for the database", extra={"reason": error.reason})
        await asyncio.sleep(config.poll_interval_s)


async def _forget(database: postgres.Database, *, older_than_s: float) -> None:
    await creates.sweep_keys(database, older_than_s=older_than_s)
    await spending.Spending(database).sweep(older_than_s=older_than_s)
    await outbox.Outbox(database).sweep(older_than_s=older_than_s)
