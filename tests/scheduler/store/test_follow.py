import asyncio
from collections.abc import AsyncIterator

import pytest

from darkroom import postgres
from darkroom.scheduler.store import bell, events, follow
from tests.scheduler.store.conftest import make


@pytest.fixture
async def follower(database: postgres.Database) -> AsyncIterator[follow.Follow]:
    made = follow.Follow(events.Events(database), bell.Bell(database, interval_s=0.05), poll_interval_s=0.02)
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_watchers_of_what_changed_are_woken(follower: follow.Follow, database: postgres.Database) -> None:
    changing, still = await make(database), await make(database)
    with (
        follower.changes(changing.generation_id) as one,
        follower.changes(changing.generation_id) as two,
        follower.changes(still.generation_id) as three,
    ):
        for event in (one, two, three):  # the first look tells everyone where things stand
            await asyncio.wait_for(event.wait(), 20)
            event.clear()
        await database.execute("UPDATE generation SET sequence = 2 WHERE generation_id = $1", changing.generation_id)
        await asyncio.wait_for(asyncio.gather(one.wait(), two.wait()), 20)
        assert not three.is_set()


async def test_nothing_is_kept_of_watchers_that_left(follower: follow.Follow, database: postgres.Database) -> None:
    made = await make(database)
    with follower.changes(made.generation_id) as changed:
        await asyncio.wait_for(changed.wait(), 20)
    assert not follower._watched
    assert not follower._seen
