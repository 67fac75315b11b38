from typing import Any

import asyncpg
import pytest

from darkroom import errors
from darkroom.billing_meter import domain, ledger
from darkroom.billing_meter.store import ledger as ledger_store
from tests.billing_meter.harness import USD, Meter

APPEND_ONLY = {
    "price_version": "nanos_per_image",
    "txn": "created_at",
    "entry": "nanos",
    "lease_grant": "granted_nanos",
    "lease_release": "released_nanos",
    "usage_event": "free_reason",
    "charge": "amount_nanos",
}


async def test_what_was_written_cannot_be_changed(meter: Meter) -> None:
    tenant_id = await meter.tenant()
    await meter.grant(tenant_id, 2 * USD)
    await meter.release(tenant_id, USD)
    await meter.record(await meter.outcome(tenant_id))
    for table, column in APPEND_ONLY.items():
        assert await meter.database.fetchval(f"SELECT count(*) FROM {table}") > 0
        for change in (f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}", f"TRUNCATE {table} CASCADE"):
            with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
                await meter.database.execute(change)


async def post(meter: Meter, tenant_id: str, *entries: list[ledger.Entry]) -> None:
    async with meter.database.transaction() as connection:
        tenant = await ledger_store.lock(connection, tenant_id)
        postings = [ledger_store.posting(domain.Kind.CREDIT, "a subject", each) for each in entries]
        await ledger_store.post(connection, tenant, postings)


async def test_entries_that_do_not_sum_to_zero_cannot_be_committed(meter: Meter) -> None:
    tenant_id = await meter.tenant()
    with pytest.raises(asyncpg.CheckViolationError, match="do not sum to zero"):
        await post(meter, tenant_id, [ledger.Entry(domain.Account.AVAILABLE, 5)])
    assert await meter.violations() == {}


async def test_a_subject_is_posted_once(meter: Meter) -> None:
    tenant_id = await meter.tenant()
    with pytest.raises(asyncpg.UniqueViolationError):
        await post(meter, tenant_id, ledger.grant(1), ledger.grant(1))


async def test_a_balance_is_never_impossible(meter: Meter) -> None:
    tenant_id = await meter.tenant()
    for change in (
        "available_nanos = -1",
        "held_nanos = -1",
        "receivable_nanos = 1",
        "receivable_nanos = -1, available_nanos = 1",
        "receivable_nanos = -1, available_nanos = 0, held_nanos = 1",
    ):
        with pytest.raises(asyncpg.CheckViolationError):
            await meter.database.execute(f"UPDATE balance SET {change} WHERE tenant_id = $1", tenant_id)


async def test_lock_refuses_unknown_tenants_and_other_currencies(meter: Meter) -> None:
    tenant_id = await meter.tenant()
    async with meter.database.transaction() as connection:
        assert (await ledger_store.lock(connection, tenant_id, currency="USD")).balance.available_nanos == 10 * USD
        with pytest.raises(errors.NotFound):
            await ledger_store.lock(connection, "ten_" + "f" * 32)
        with pytest.raises(errors.FailedPrecondition) as refusal:
            await ledger_store.lock(connection, tenant_id, currency="EUR")
    assert refusal.value.reason == "CURRENCY_MISMATCH"


async def test_the_first_migration_makes_the_platforms_tenant(meter: Meter) -> None:
    row: Any = await meter.database.fetchrow("SELECT * FROM tenant JOIN balance USING (tenant_id)")
    assert row["tenant_id"] == domain.PLATFORM_TENANT_ID
