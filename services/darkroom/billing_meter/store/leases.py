"""Spending leases: money on hold for a scheduler, granted and given back.

The scheduler's grant or release comes in under an id it made before asking; the same id again changes nothing.
"""

from darkroom import errors, postgres
from darkroom.billing_meter import domain, hold, ledger
from darkroom.billing_meter.store import ledger as ledger_store

_GRANTED = "SELECT tenant_id, wanted_nanos, least_nanos, granted_nanos FROM lease_grant WHERE grant_id = $1"
_INSERT_GRANT = """
INSERT INTO lease_grant (grant_id, txn_id, tenant_id, wanted_nanos, least_nanos, granted_nanos) VALUES ($1, $2, $3, $4, $5, $6)
"""
_RELEASED = "SELECT tenant_id, released_nanos FROM lease_release WHERE release_id = $1"
_INSERT_RELEASE = "INSERT INTO lease_release (release_id, txn_id, tenant_id, released_nanos) VALUES ($1, $2, $3, $4)"


async def grant(
    database: postgres.Database, *, tenant_id: str, grant_id: str, currency: str, wanted_nanos: int, least_nanos: int
) -> int:
    """Hold money; the amount granted. FailedPrecondition INSUFFICIENT_FUNDS, AlreadyExists if the id has other parameters."""
    async with database.transaction() as connection:
        tenant = await ledger_store.lock(connection, tenant_id, currency=currency)
        if row := await connection.fetchrow(_GRANTED, grant_id):
            _must_equal("grant", grant_id, (tenant_id, wanted_nanos, least_nanos), tuple(row)[:3])
            return int(row["granted_nanos"])
        granted_nanos = hold.decide(tenant.balance, wanted_nanos=wanted_nanos, least_nanos=least_nanos)
        posting = ledger_store.posting(domain.Kind.GRANT, grant_id, ledger.grant(granted_nanos))
        await ledger_store.post(connection, tenant, [posting])
        await connection.execute(
            _INSERT_GRANT, grant_id, posting.txn_id, tenant_id, wanted_nanos, least_nanos, granted_nanos
        )
    return granted_nanos


async def release(database: postgres.Database, *, tenant_id: str, release_id: str, currency: str, nanos: int) -> None:
    """Give held money back; FailedPrecondition if less is held, AlreadyExists if the id has other parameters."""
    async with database.transaction() as connection:
        tenant = await ledger_store.lock(connection, tenant_id, currency=currency)
        if row := await connection.fetchrow(_RELEASED, release_id):
            return _must_equal("release", release_id, (tenant_id, nanos), tuple(row))
        posting = ledger_store.posting(domain.Kind.RELEASE, release_id, ledger.release(tenant.balance, nanos))
        await ledger_store.post(connection, tenant, [posting])
        await connection.execute(_INSERT_RELEASE, release_id, posting.txn_id, tenant_id, nanos)


def _must_equal(noun: str, subject_id: str, asked: tuple[object, ...], stored: tuple[object, ...]) -> None:
    if asked != stored:
        raise errors.AlreadyExists(noun, subject_id)
