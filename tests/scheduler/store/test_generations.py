import contextlib
from typing import Any

import pytest

from darkroom import errors, ids, postgres, pricing
from darkroom.api.billing_meter.v1 import metering_service_pb2
from darkroom.scheduler import poison
from darkroom.scheduler.domain import generation as domain
from darkroom.scheduler.store import attempts, generations
from tests.scheduler.store.conftest import TENANT, counted, lease, make
from tests.scheduler.store.placed import begin, own


@pytest.fixture
def store(database: postgres.Database) -> generations.Generations:
    return generations.Generations(database)


async def outcome(database: postgres.Database) -> metering_service_pb2.Outcome:
    rows = await database.fetch("SELECT kind, payload FROM outbox")
    assert [row["kind"] for row in rows] == ["OUTCOME"]
    return metering_service_pb2.Outcome.FromString(rows[0]["payload"])


async def states(database: postgres.Database, generation_id: str) -> list[tuple[int, str]]:
    rows = await database.fetch(
        "SELECT sequence, state FROM generation_event WHERE generation_id = $1 ORDER BY sequence", generation_id
    )
    return [(row["sequence"], row["state"]) for row in rows]


async def test_another_tenants_is_missing(store: generations.Generations, database: postgres.Database) -> None:
    made = await make(database)
    assert await store.get(tenant_id=TENANT, generation_id=made.generation_id) == made
    for call in (store.get, store.cancel):
        with pytest.raises(errors.NotFound) as foreign:
            await call(tenant_id=ids.new("ten"), generation_id=made.generation_id)
        absent_id = ids.new("gen")
        with pytest.raises(errors.NotFound) as absent:
            await call(tenant_id=TENANT, generation_id=absent_id)
        assert str(foreign.value).replace(made.generation_id, absent_id) == str(absent.value)


async def test_a_waiting_one_is_cancelled_at_once(store: generations.Generations, database: postgres.Database) -> None:
    made = await make(database, estimate_nanos=70)
    ended = await store.cancel(tenant_id=TENANT, generation_id=made.generation_id)
    assert ended.state is domain.State.CANCELLED
    assert ended.finished_at is not None
    assert ended.error is not None
    assert ended.error["reason"] == "CANCELLED"
    assert ended.stages is not None
    assert 0 < ended.stages["queued_us"] <= (ended.finished_at - ended.created_at).total_seconds() * 1e6 + 1
    assert await states(database, made.generation_id) == [(1, "QUEUED"), (2, "CANCELLED")]
    assert await lease(database) == (70, 0), "its money can be spent again"
    told = await outcome(database)
    assert (told.generation_id, told.free_reason, told.amount.nanos) == (made.generation_id, "CANCELLED", 0)
    assert told.estimate.nanos == 70
    assert dict(told.tags) == {"team": "a"}
    assert await store.cancel(tenant_id=TENANT, generation_id=made.generation_id) == ended, "again changes nothing"


async def test_a_running_one_is_asked_to_end(store: generations.Generations, database: postgres.Database) -> None:
    made = await make(database)
    await database.execute("UPDATE generation SET state = 'RUNNING'")
    asked = await store.cancel(tenant_id=TENANT, generation_id=made.generation_id)
    assert asked.state is domain.State.RUNNING
    assert await database.fetchval("SELECT cancel_requested FROM generation")
    assert await database.fetchval("SELECT count(*) FROM outbox") == 0


async def test_an_end_is_one_transaction_with_its_charge(database: postgres.Database) -> None:
    made = await make(database, estimate_nanos=100)
    usage = pricing.Quantities(gpu_time_us=5, steps=7, images=1, pixels=4096)
    artifacts = [{"media_id": ids.new("med"), "seed": "7"}]
    ending = generations.End(
        state=domain.State.SUCCEEDED, usage=usage, charge_nanos=60, stages={"denoise_us": 5}, artifacts=artifacts
    )
    with contextlib.suppress(RuntimeError):
        async with database.transaction() as connection:
            await generations.end(connection, made, ending)
            raise RuntimeError("the commit never came")
    assert await lease(database) == (0, 100)
    assert await database.fetchval("SELECT count(*) FROM outbox") == 0
    async with database.transaction() as connection:
        ended = await generations.end(connection, made, ending)
    assert await lease(database) == (40, 0)
    assert await database.fetchval("SELECT spent_nanos FROM spending_lease") == 60
    assert (ended.state, ended.stages, ended.artifacts) == (domain.State.SUCCEEDED, {"denoise_us": 5}, artifacts)
    assert pricing.Quantities(**ended.usage or {}) == usage
    told = await outcome(database)
    assert (told.amount.nanos, told.free_reason, told.usage.pixels) == (60, "", 4096)


async def test_of_one_that_no_runner_ends_the_waiting_is_told(database: postgres.Database) -> None:
    made, fence = await make(database), await own(database)
    [key] = await begin(database, fence, made.generation_id)
    # Its only attempt ran for an hour, which is no waiting.
    await database.execute("UPDATE generation SET created_at = created_at - interval '1 hour'")
    await database.execute("UPDATE attempt SET started_at = started_at - interval '1 hour'")
    for_good = poison.Verdict(poison.POISONED, suspect=True, solo_deaths=3)
    [ended] = await attempts.Attempts(database).give_back(fence, [key], reason="X", judge=lambda *_: for_good)
    assert ended.stages is not None
    assert ended.stages.keys() == {"queued_us"}
    assert 0 < ended.stages["queued_us"] < 60_000_000


@pytest.mark.parametrize("read_max", [1, 2, generations.READ_MAX])
async def test_pages_are_newest_first_and_filtered(
    store: generations.Generations, database: postgres.Database, monkeypatch: pytest.MonkeyPatch, read_max: int
) -> None:
    monkeypatch.setattr(generations, "READ_MAX", read_max)
    made = [await make(database, model=f"m{number % 2}") for number in range(5)]
    await store.cancel(tenant_id=TENANT, generation_id=made[0].generation_id)
    newest = [each.generation_id for each in reversed(made)]

    async def page(before_id: str = "", limit: int = 10, **filters: str) -> list[str]:
        tenant = {"tenant_id": TENANT, **filters}
        found = store.page(generations.Filters(**tenant), before_id=before_id, limit=limit)
        return [each.generation_id async for each in found]

    assert await page() == newest
    assert await page(limit=2) == newest[:2]
    assert await page(before_id=newest[1], limit=2) == newest[2:4]
    assert await page(model="m1") == [newest[1], newest[3]]
    assert await page(state="CANCELLED") == [newest[4]]
    assert await page(tenant_id=ids.new("ten")) == []


@pytest.mark.parametrize("filters", [{"state": "FAILED"}, {"model": "rare"}, {"state": "FAILED", "model": "rare"}])
async def test_what_a_filter_leaves_out_is_not_read(database: postgres.Database, filters: dict[str, str]) -> None:
    made = [await make(database, model="rare" if number == 7 else "m") for number in range(40)]
    await database.execute("UPDATE generation SET state = 'SUCCEEDED'")
    await database.execute("UPDATE generation SET state = 'FAILED' WHERE model = 'rare'")
    await database.execute("ANALYZE generation")
    async with counted(database, "generation") as one:
        found = generations.Generations(one).page(generations.Filters(TENANT, **filters), before_id="", limit=50)
        assert [each.generation_id async for each in found] == [made[7].generation_id]
        assert await one.rows_read() == 1


async def test_a_page_reads_no_more_than_is_asked_of_it(
    store: generations.Generations, database: postgres.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that pictures in requests fill no memory: whoever has enough of a page leaves the rest in the database."""
    made = [await make(database) for _ in range(5)]
    reads: list[int] = []
    fetch = database.fetch

    async def counted(sql: str, *args: Any) -> Any:
        rows = await fetch(sql, *args)
        reads.append(len(rows))
        return rows

    monkeypatch.setattr(database, "fetch", counted)
    monkeypatch.setattr(generations, "READ_MAX", 2)
    found = store.page(generations.Filters(TENANT), before_id="", limit=5)
    assert [(await anext(found)).generation_id for _ in range(3)] == [each.generation_id for each in made[:1:-1]]
    assert reads == [2, 2]


async def test_what_waits_in_vain_is_ended(store: generations.Generations, database: postgres.Database) -> None:
    fresh = await make(database, deadline_us=10**9)
    late = await make(database, deadline_us=1)
    (ended,) = await store.end_waiting(limit=10)
    assert (ended.generation_id, ended.state) == (late.generation_id, domain.State.CANCELLED)
    assert (ended.error or {})["reason"] == "DEADLINE_EXCEEDED"
    assert await store.end_waiting(limit=10) == []
    still = await store.get(tenant_id=TENANT, generation_id=fresh.generation_id)
    assert still.state is domain.State.QUEUED
    assert await database.fetchval("SELECT count(*) FROM outbox") == 1


async def test_what_does_not_wait_in_vain_is_not_read(database: postgres.Database) -> None:
    for deadline_us in (10**9, None) * 20:
        await make(database, deadline_us=deadline_us)
    await database.execute("ANALYZE generation")
    async with counted(database, "generation") as one:
        assert await generations.Generations(one).end_waiting(limit=10) == []
        assert await one.rows_read() == 0


async def test_waiting_ones_are_counted_by_tenant(store: generations.Generations, database: postgres.Database) -> None:
    other = ids.new("ten")
    for tenant_id in (TENANT, TENANT, other):
        await make(database, tenant_id=tenant_id)
    running = await make(database)
    await database.execute("UPDATE generation SET state = 'RUNNING' WHERE generation_id = $1", running.generation_id)
    assert await store.queued_by_tenant() == {TENANT: 2, other: 1}
