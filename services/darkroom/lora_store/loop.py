"""lora_store's background work: what dead pushes left in blob storage is swept away. Started by `server`."""

import asyncio
import logging

from darkroom import errors
from darkroom.lora_store import store

_log = logging.getLogger(__name__)


async def sweep(loras: store.Store, *, interval_s: float, age_s: float) -> None:
    """Sweep every `interval_s`, for ever; a database that is away is tried again at the next turn."""
    while True:
        try:
            if swept := await loras.sweep(age_s=age_s):
                _log.info("swept bytes that nothing refers to", extra={"blobs": swept})
        except (errors.Unavailable, errors.Aborted) as error:
            _log.warning("the sweep failed and will be tried again", extra={"reason": error.reason})
        await asyncio.sleep(interval_s)
