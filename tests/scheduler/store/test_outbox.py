import asyncio
import datetime

import asyncpg
import pytest

from darkroom import postgres
from darkroom.scheduler.store import outbox
from tests.scheduler.store.conftest import counted


@pytest.fixture
async def store(database: postgres.Database) -> outbox.Outbox:
    async with database.transaction() as connection:
        for number in range(4):
            await outbox.add(connection, kind="OUTCOME", subject_id=f"gen_{number}", payload=bytes([number]))
    return outbox.Outbox(database)


def numbers(entries: list[outbox.Entry]) -> list[int]:
    return [entry.payload[0] for entry in entries]


async def test_two_replicas_never_claim_the_same(store: outbox.Outbox) -> None:
    one, two = await asyncio.gather(store.claim(limit=2), store.claim(limit=2))
    assert sorted(numbers(one) + numbers(two)) == [0, 1, 2, 3]
    assert await store.claim(limit=2) == []


async def test_a_claim_lapses(store: outbox.Outbox, database: postgres.Database) -> None:
    assert numbers(await store.claim(limit=10)) == [0, 1, 2, 3]
    late = datetime.timedelta(seconds=outbox.CLAIM_S)
    await database.execute(
        "UPDATE outbox SET next_try_at = next_try_at - $1::interval WHERE subject_id = 'gen_2'", late
    )
    (again,) = await store.claim(limit=10)
    assert (again.subject_id, again.attempts) == ("gen_2", 2)


async def test_what_came_of_each(store: outbox.Outbox, database: postgres.Database) -> None:
    entries = await store.claim(limit=10)
    await store.delivered([entries[0].outbox_id])
    await store.refused(entries[1].outbox_id, reason="PAYLOAD_CONFLICT")
    await store.postpone([entries[2].outbox_id], delay_s=0.0)
    await store.postpone([entries[3].outbox_id], delay_s=60.0)
    assert numbers(await store.claim(limit=10)) == [2]
    assert await database.fetchval("SELECT refusal FROM outbox WHERE subject_id = 'gen_1'") == "PAYLOAD_CONFLICT"


async def test_only_what_was_delivered_is_forgotten(store: outbox.Outbox, database: postgres.Database) -> None:
    entries = await store.claim(limit=10)
    await store.delivered([entries[0].outbox_id])
    assert await store.sweep(older_than_s=60.0) == 0
    assert await store.sweep(older_than_s=0.0) == 1
    assert await database.fetchval("SELECT count(*) FROM outbox") == 3


async def test_a_second_outcome_of_one_generation_fails_its_transaction(
    store: outbox.Outbox, database: postgres.Database
) -> None:
    with pytest.raises(asyncpg.UniqueViolationError):
        async with database.transaction() as connection:
            await outbox.add(connection, kind="OUTCOME", subject_id="gen_0", payload=b"other")


async def test_what_is_kept_is_not_read(store: outbox.Outbox, database: postgres.Database) -> None:
    await store.delivered([entry.outbox_id for entry in await store.claim(limit=10)])
    async with counted(database, "outbox") as one:
        assert await outbox.Outbox(one).sweep(older_than_s=60.0) == 0
        assert await one.rows_read() == 0
