"""Tells every replica that something changed, soon but without promise.

Whoever commits a change rings; listeners of this process are called at once, those of other replicas by a NOTIFY. A NOTIFY takes a
database-wide lock at commit, so there is at most one per interval, and every listener polls besides: a lost ring costs a poll
interval, never a change.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator

from darkroom import errors, ids, postgres

CHANNEL = "darkroom_scheduler"
ALIVE_CHECK_S = 5.0
RECONNECT_S = 0.5

_log = logging.getLogger(__name__)


class Bell:
    """One per replica; `run` carries the rings between replicas."""

    def __init__(self, database: postgres.Database, *, interval_s: float) -> None:
        self._database = database
        self._interval_s = interval_s
        self._listeners: list[Callable[[], None]] = []
        self._rung = asyncio.Event()
        self._replica = ids.new("run")  # so that a replica does not hear itself

    def ring(self) -> None:
        """Say that a change was committed; never blocks."""
        self._rung.set()
        self._call()

    @contextlib.contextmanager
    def listen(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call `callback` (which must not block) at every ring, here or elsewhere."""
        self._listeners.append(callback)
        try:
            yield
        finally:
            self._listeners.remove(callback)

    async def run(self) -> None:
        """Pass rings on and hear those of others until cancelled; a lost connection is opened again."""
        while True:
            try:
                await self._carry()
            except errors.DarkroomError as error:
                _log.info("the bell lost its connection", extra={"reason": error.reason})
            await asyncio.sleep(RECONNECT_S)
            self._call()

    async def _carry(self) -> None:
        async with self._database.acquire() as connection:
            await connection.add_listener(CHANNEL, self._heard)
            try:
                while True:
                    await self._pass_on(connection)
                    await asyncio.sleep(self._interval_s)
            finally:
                if connection.is_closed():
                    connection.terminate()  # asyncpg may not have cleaned up; it minds a listener on what is given back
                else:
                    await connection.remove_listener(CHANNEL, self._heard)

    async def _pass_on(self, connection: postgres.Connection) -> None:
        try:
            async with asyncio.timeout(ALIVE_CHECK_S):  # wait_for may lose a cancellation before Python 3.12
                await self._rung.wait()
        except TimeoutError:
            await connection.execute("SELECT 1")
            return
        self._rung.clear()
        await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, self._replica)

    def _heard(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        if payload != self._replica:
            self._call()

    def _call(self) -> None:
        for callback in list(self._listeners):
            callback()
