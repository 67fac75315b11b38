"""Wakes watchers when their generation changed.

Each watch registers its generation; one task per replica asks for the sequence numbers of all watched generations in one statement,
at every ring of the bell and at least every poll interval, and wakes those whose number rose. A thousand watchers cost one query.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterator

from darkroom import errors
from darkroom.scheduler.store import bell, events

GAP_S = 0.02  # between two looks, however often the bell rings

_log = logging.getLogger(__name__)


class Follow:
    """The watched generations of one replica."""

    def __init__(self, store: events.Events, the_bell: bell.Bell, *, poll_interval_s: float) -> None:
        self._store = store
        self._bell = the_bell
        self._poll_interval_s = poll_interval_s
        self._watched: dict[str, set[asyncio.Event]] = {}
        self._seen: dict[str, int] = {}

    @contextlib.contextmanager
    def changes(self, generation_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever the generation may have changed; clear it before reading."""
        changed = asyncio.Event()
        self._watched.setdefault(generation_id, set()).add(changed)
        try:
            yield changed
        finally:
            watchers = self._watched[generation_id]
            watchers.discard(changed)
            if not watchers:
                del self._watched[generation_id]
                self._seen.pop(generation_id, None)

    async def run(self) -> None:
        """Wake watchers until cancelled; while the database is away nobody is woken."""
        rung = asyncio.Event()
        with self._bell.listen(rung.set):
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._poll_interval_s):  # wait_for may lose a cancellation before 3.12
                        await rung.wait()
                rung.clear()
                try:
                    await self._wake()
                except errors.DarkroomError as error:
                    _log.info("watchers wait for the database", extra={"reason": error.reason})
                await asyncio.sleep(GAP_S)

    async def _wake(self) -> None:
        if not self._watched:
            return
        sequences = await self._store.sequences(self._watched)
        for generation_id, sequence in sequences.items():
            if sequence != self._seen.get(generation_id) and generation_id in self._watched:
                self._seen[generation_id] = sequence
                for changed in self._watched[generation_id]:
                    changed.set()
