import pytest

from darkroom import errors, ids, postgres
from darkroom.scheduler.domain import generation as domain
from darkroom.scheduler.store import events
from tests.scheduler.store.conftest import make


async def test_row_and_events_are_read_together(database: postgres.Database) -> None:
    made = await make(database)
    store = events.Events(database)
    async with database.transaction() as connection:
        for sequence, state in ((2, domain.State.RUNNING), (5, domain.State.QUEUED)):
            await events.append(connection, generation_id=made.generation_id, sequence=sequence, state=state)
    snapshot = await store.since(generation_id=made.generation_id, after_sequence=1)
    assert snapshot.row["generation_id"] == made.generation_id
    assert [(event.sequence, event.state) for event in snapshot.events] == [(2, "RUNNING"), (5, "QUEUED")]
    assert (await store.since(generation_id=made.generation_id, after_sequence=5)).events == []


async def test_a_missing_one_is_not_found(database: postgres.Database) -> None:
    with pytest.raises(errors.NotFound):
        await events.Events(database).since(generation_id=ids.new("gen"), after_sequence=0)


async def test_sequences_of_many(database: postgres.Database) -> None:
    one, two = await make(database), await make(database)
    await database.execute("UPDATE generation SET sequence = 9 WHERE generation_id = $1", two.generation_id)
    found = await events.Events(database).sequences([one.generation_id, two.generation_id, ids.new("gen")])
    assert found == {one.generation_id: 1, two.generation_id: 9}
