import asyncio

import asyncpg
import pytest

from darkroom import ids, postgres
from darkroom.api.billing_meter.v1 import metering_service_pb2
from darkroom.scheduler.domain import spending as money
from darkroom.scheduler.store import spending
from tests.scheduler.store.conftest import TENANT, fund, lease


@pytest.fixture
def store(database: postgres.Database) -> spending.Spending:
    return spending.Spending(database)


async def test_a_grant_counts_once(store: spending.Spending, database: postgres.Database) -> None:
    assert await store.lease(TENANT) == money.NO_LEASE
    grant = money.Grant(ids.new("lea"), TENANT, "USD", 100, 10)
    await store.ask(grant)
    assert await store.asked() == [grant]
    await asyncio.gather(*(store.apply(grant, granted_nanos=80) for _ in range(5)))
    assert await store.asked() == []
    assert await store.lease(TENANT) == money.Lease("USD", 80)
    await fund(database, TENANT, 20)
    assert await store.lease(TENANT) == money.Lease("USD", 100)


async def test_a_refused_grant_is_not_asked_again(store: spending.Spending) -> None:
    grant = money.Grant(ids.new("lea"), TENANT, "USD", 100, 10)
    await store.ask(grant)
    await store.refuse(grant)
    await store.apply(grant, granted_nanos=100)
    assert await store.asked() == []
    assert await store.lease(TENANT) == money.NO_LEASE


async def test_lost_answers_are_found_by_age_and_tenant(store: spending.Spending, database: postgres.Database) -> None:
    grant = money.Grant(ids.new("lea"), TENANT, "USD", 100, 10)
    await store.ask(grant)
    assert await store.asked(older_than_s=60.0) == []
    await database.execute("UPDATE spending_grant SET created_at = created_at - interval '61 seconds'")
    assert await store.asked(older_than_s=60.0) == [grant]
    assert await store.asked(tenant_id=ids.new("ten")) == []


async def test_reserved_money_is_spent_or_comes_back(store: spending.Spending, database: postgres.Database) -> None:
    await fund(database, TENANT, 100)
    async with database.transaction() as connection:
        held = await spending.lock(connection, [TENANT, ids.new("ten")])
        assert held == {TENANT: money.Lease("USD", 100)}
        await spending.debit(connection, {TENANT: 70})
    assert await lease(database) == (30, 70)
    async with database.transaction() as connection:
        await spending.settle(connection, tenant_id=TENANT, estimate_nanos=70, charge_nanos=25)
    row = await database.fetchrow("SELECT * FROM spending_lease")
    assert row is not None
    assert (row["remaining_nanos"], row["reserved_nanos"], row["spent_nanos"]) == (75, 0, 25)


async def test_the_database_itself_refuses_an_overdraft(store: spending.Spending, database: postgres.Database) -> None:
    await fund(database, TENANT, 100)
    with pytest.raises(asyncpg.CheckViolationError):
        async with database.transaction() as connection:
            await spending.debit(connection, {TENANT: 101})


async def test_idle_money_goes_back_through_the_outbox(store: spending.Spending, database: postgres.Database) -> None:
    await fund(database, TENANT, 100)
    async with database.transaction() as connection:
        await spending.debit(connection, {TENANT: 30})
    assert await store.release_idle(idle_s=60.0) == 0
    assert await store.release_idle(idle_s=0.0) == 1
    assert await store.release_idle(idle_s=0.0) == 0
    assert await lease(database) == (0, 30)
    row = await database.fetchrow("SELECT * FROM outbox")
    assert row is not None
    release = metering_service_pb2.ReleaseLeaseRequest.FromString(row["payload"])
    assert (row["kind"], row["subject_id"]) == ("RELEASE", release.release_id)
    assert (release.tenant_id, release.amount.currency, release.amount.nanos) == (TENANT, "USD", 70)


async def test_answered_grants_are_forgotten(store: spending.Spending, database: postgres.Database) -> None:
    await fund(database, TENANT, 100)
    await store.ask(money.Grant(ids.new("lea"), TENANT, "USD", 1, 1))
    assert await store.sweep(older_than_s=60.0) == 0
    assert await store.sweep(older_than_s=0.0) == 1
    assert len(await store.asked()) == 1
