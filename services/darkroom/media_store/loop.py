"""media_store's background work: what has expired goes, and what dead uploads left is swept away. Started by `server`."""

import asyncio
import logging

from darkroom import errors
from darkroom.media_store import store

_log = logging.getLogger(__name__)


async def sweep(media: store.Store, *, interval_s: float, age_s: float) -> None:
    """Sweep every `interval_s`, for ever; a database that is away is tried again at the next turn."""
    while True:
        try:
            expired = swept = 0
            while count := await media.expire():
                expired += count
            swept = await media.sweep(age_s=age_s)
            if expired or swept:
                _log.info("swept media", extra={"expired": expired, "blobs": swept})
        except (errors.Unavailable, errors.Aborted) as error:
            _log.warning("the sweep failed and will be tried again", extra={"reason": error.reason})
        await asyncio.sleep(interval_s)
