"""The invariants hold whatever is done, and each catches a violation planted behind the triggers' back."""

import asyncio
import collections

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from darkroom import ids
from darkroom.api.billing_meter.v1 import account_service_pb2, metering_service_pb2
from darkroom.billing_meter.store import invariants, tenants
from tests.billing_meter.harness import USD, Meter, usd

CHARGED = "(SELECT generation_id FROM charge LIMIT 1)"
GRANT = "(SELECT grant_id FROM lease_grant LIMIT 1)"
MUTANTS = {
    "entries_sum_to_zero": [
        "UPDATE entry SET nanos = nanos + 1 WHERE account = 'REVENUE'",
        "DELETE FROM entry WHERE account = 'CREDIT'",
    ],
    "balances_equal_entries": [
        "UPDATE balance SET available_nanos = available_nanos + 1 WHERE available_nanos > 0",
        "UPDATE balance SET held_nanos = held_nanos - 1 WHERE held_nanos > 0",
        "DELETE FROM balance WHERE available_nanos > 0",
    ],
    "held_equals_open_leases": [
        "UPDATE lease_grant SET granted_nanos = granted_nanos - 1",
        "DELETE FROM lease_release",
        "UPDATE charge SET held_nanos = 0",
    ],
    "one_charge_per_charged_event": [
        f"DELETE FROM charge WHERE generation_id = {CHARGED}",
        f"UPDATE usage_event SET free_reason = 'FAILED' WHERE generation_id = {CHARGED}",
        "UPDATE usage_event SET free_reason = '' WHERE free_reason <> ''",
        "DELETE FROM usage_event",
        "UPDATE charge SET tenant_id = 'ten_' || repeat('0', 32)",
    ],
    "one_transaction_per_movement": [
        f"UPDATE lease_grant SET txn_id = 'txn_none' WHERE grant_id = {GRANT}",
        "DELETE FROM txn WHERE kind = 'RELEASE'",
        "DELETE FROM charge",
        "INSERT INTO txn SELECT 'txn_stray', tenant_id, 'CHARGE', 'gen_stray', currency FROM tenant LIMIT 1",
        "UPDATE txn SET tenant_id = 'ten_' || repeat('0', 32) WHERE kind = 'GRANT'",
    ],
    "movements_equal_entries": [
        "UPDATE lease_grant SET granted_nanos = granted_nanos - 1",
        "UPDATE lease_release SET released_nanos = released_nanos + 1",
        "UPDATE charge SET amount_nanos = amount_nanos + 1",
        "DELETE FROM entry WHERE account = 'REVENUE'",
    ],
    "lines_sum_to_charge": ["UPDATE charge SET lines = '[]'", "UPDATE charge SET amount_nanos = amount_nanos + 1"],
    "charges_within_estimate": ["UPDATE usage_event SET estimate_nanos = 1 WHERE free_reason = ''"],
    "usage_priced_for_its_model": [
        "UPDATE usage_event SET model = 'other'",
        "UPDATE usage_event SET currency = 'EUR'",
        "DELETE FROM price_version",
    ],
}


def test_every_invariant_has_a_mutant() -> None:
    assert set(MUTANTS) == set(invariants.STATEMENTS)


async def test_each_invariant_catches_planted_violations(meter: Meter) -> None:
    tenant_id = await meter.tenant()
    await meter.grant(tenant_id, 3 * USD)
    await meter.release(tenant_id, USD)
    await meter.record(await meter.outcome(tenant_id), await meter.outcome(tenant_id, free_reason="FAILED"))
    assert await meter.violations() == {}
    for name, mutations in MUTANTS.items():
        for mutation in mutations:
            assert await violations_after(meter, name, mutation) > 0, f"{name} does not see {mutation}"
    assert await meter.violations() == {}


async def violations_after(meter: Meter, name: str, mutation: str) -> int:
    """What an invariant counts after a change that no trigger and no foreign key saw; the change is rolled back."""
    async with meter.database.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(mutation)
        violations = int(await connection.fetchval(invariants.STATEMENTS[name]))
        await transaction.rollback()
    return violations


async def test_the_verdict_counts_violations(meter: Meter) -> None:
    tenant_id = await meter.tenant()
    await meter.database.execute("UPDATE balance SET available_nanos = 1 WHERE tenant_id = $1", tenant_id)
    assert await meter.violations() == {"balances_equal_entries": 1}


AMOUNTS = st.integers(1, 3 * USD)
OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["credit", "grant", "release", "charge", "free", "again", "conflict"]), AMOUNTS),
    min_size=1,
    max_size=12,
)


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(operations=OPERATIONS)
async def test_the_ledger_adds_up_after_anything(meter: Meter, operations: list[tuple[str, int]]) -> None:
    tenant_id = await meter.tenant(USD)
    told: list[metering_service_pb2.Outcome] = []
    sums: collections.Counter[str] = collections.Counter(total=USD)
    for operation, nanos in operations:
        await perform(meter, tenant_id, operation, nanos, told, sums)
    balance = (await tenants.get(meter.database, tenant_id)).balance
    assert balance.total_nanos == sums["total"]
    assert (
        await meter.database.fetchval("SELECT count(*) FROM charge WHERE tenant_id = $1", tenant_id) == sums["charges"]
    )
    assert await meter.violations() == {}


async def perform(
    meter: Meter,
    tenant_id: str,
    operation: str,
    nanos: int,
    told: list[metering_service_pb2.Outcome],
    sums: collections.Counter[str],
) -> None:
    if operation == "credit":
        request = account_service_pb2.AddCreditRequest(
            tenant_id=tenant_id, amount=usd(nanos), idempotency_key=ids.new("req")
        )
        await meter.accounts.AddCredit(request)
        sums["total"] += nanos
    elif operation == "grant":
        await asyncio.gather(meter.grant(tenant_id, nanos), return_exceptions=True)  # may lack funds
    elif operation == "release":
        await asyncio.gather(meter.release(tenant_id, nanos), return_exceptions=True)  # may hold less
    elif operation in {"charge", "free"}:
        outcome = await meter.outcome(
            tenant_id, estimate=usd(nanos), free_reason="FAILED" if operation == "free" else ""
        )
        told.append(outcome)
        await meter.record(outcome)
        sums["total"] -= outcome.amount.nanos
        sums["charges"] += operation == "charge"
    elif told:
        again = metering_service_pb2.Outcome()
        again.CopyFrom(told[nanos % len(told)])
        again.usage.steps += operation == "conflict"
        (answer,) = await meter.record(again)
        assert answer.refusal == ("PAYLOAD_CONFLICT" if operation == "conflict" else "")
