"""Ends and forgets what nobody else will.

Waiting generations whose deadline has passed end here (on any replica: rows locked by another are skipped). Old idempotency keys,
answered grants and delivered outbox rows are deleted after their retention, and checkpoints that nobody needs are deleted from
media_store.
"""

import asyncio
import logging
import time

from darkroom import errors, postgres
from darkroom.scheduler.config import Config
from darkroom.scheduler.peers import media
from darkroom.scheduler.store import bell, checkpoints, creates, generations, outbox, spending

END_BATCH_MAX = 200
DISCARD_BATCH_MAX = 100
DISCARD_AGAIN_S = 60.0

_log = logging.getLogger(__name__)


async def run(
    waiting: generations.Generations,
    database: postgres.Database,
    the_bell: bell.Bell,
    store: media.Media,
    config: Config,
) -> None:
    """Sweep until cancelled."""
    forget_at_s = time.monotonic()
    while True:
        try:
            if await waiting.end_waiting(limit=END_BATCH_MAX):
                the_bell.ring()
                continue
            if time.monotonic() >= forget_at_s:
                forget_at_s = time.monotonic() + config.sweep_interval_s
                await _forget(database, older_than_s=config.idempotency_retention_s)
                if await _discard(checkpoints.Checkpoints(database), store) == DISCARD_BATCH_MAX:
                    forget_at_s = time.monotonic()  # there are more; those whose deadline has passed go first
        except errors.DarkroomError as error:
            _log.info("the sweep waits for the database or media_store", extra={"reason": error.reason})
        await asyncio.sleep(config.poll_interval_s)


async def _forget(database: postgres.Database, *, older_than_s: float) -> None:
    await creates.sweep_keys(database, older_than_s=older_than_s)
    await spending.Spending(database).sweep(older_than_s=older_than_s)
    await outbox.Outbox(database).sweep(older_than_s=older_than_s)


async def _discard(kept: checkpoints.Checkpoints, store: media.Media) -> int:
    """Delete the bytes of checkpoints, and count them; what media_store does not take now is tried again later."""
    due = await kept.due(limit=DISCARD_BATCH_MAX, again_s=DISCARD_AGAIN_S)
    for one in due:
        await store.delete(one.media_id, tenant_id=one.tenant_id, generation_id=one.generation_id)
        await kept.forget([one.media_id])
    return len(due)
