import asyncio
from collections.abc import AsyncIterator

import pytest

from darkroom import postgres
from darkroom.scheduler.store import bell


@pytest.fixture
async def replicas(
    database: postgres.Database, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[bell.Bell, bell.Bell]]:
    monkeypatch.setattr(bell, "ALIVE_CHECK_S", 0.2)
    pair = bell.Bell(database, interval_s=0.01), bell.Bell(database, interval_s=0.01)
    tasks = [asyncio.create_task(each.run()) for each in pair]
    await _listening(database, 2)
    yield pair
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _listening(database: postgres.Database, replicas: int) -> None:
    """Wait until so many connections have said LISTEN."""
    async with asyncio.timeout(20):
        while await database.fetchval(_LISTENING) < replicas:  # noqa: ASYNC110  # the condition is in a database
            await asyncio.sleep(0.01)


_LISTENING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query ILIKE 'LISTEN%'"


async def test_a_ring_is_heard_here_at_once_and_there_soon(replicas: tuple[bell.Bell, bell.Bell]) -> None:
    one, two = replicas
    here: list[int] = []
    there = asyncio.Event()
    with one.listen(lambda: here.append(1)), two.listen(there.set):
        one.ring()
        assert here == [1]
        await asyncio.wait_for(there.wait(), 20)
    one.ring()
    assert here == [1], "who stopped listening hears no more"


async def test_a_lost_connection_is_opened_again(
    replicas: tuple[bell.Bell, bell.Bell], database: postgres.Database
) -> None:
    one, two = replicas
    there = asyncio.Event()
    with two.listen(there.set):
        await database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND query ILIKE 'LISTEN%'"
        )
        await _until_heard(one, there)


async def test_so_is_one_that_asyncpg_has_given_up(
    replicas: tuple[bell.Bell, bell.Bell], database: postgres.Database
) -> None:
    one, two = replicas
    there = asyncio.Event()
    with two.listen(there.set):
        for holder in database._pool._holders:
            if holder._con is not None and holder._con._listeners:
                holder._con._protocol.abort()  # as when PostgreSQL's farewell and ours cross
        await _until_heard(one, there)


async def _until_heard(ringer: bell.Bell, there: asyncio.Event) -> None:
    async with asyncio.timeout(20):
        while True:
            there.clear()
            ringer.ring()
            try:
                await asyncio.wait_for(there.wait(), 0.5)
            except TimeoutError:
                continue
            break


async def test_many_rings_are_few_notifications(replicas: tuple[bell.Bell, bell.Bell]) -> None:
    one, two = replicas
    heard: list[int] = []
    last = asyncio.Event()
    with two.listen(lambda: (heard.append(1), last.set())[0]):
        for _ in range(1000):
            one.ring()
        await asyncio.wait_for(last.wait(), 20)
        await asyncio.sleep(0.1)
    assert len(heard) <= 3
