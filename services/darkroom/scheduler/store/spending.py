"""Spending leases: money that billing_meter has set aside for a tenant's work.

`debit` reserves estimates in the transaction that inserts generations, `settle` turns a reservation into money spent in the one that
ends them; `loop.spending` asks for grants (each written before the call, so that a lost answer is asked for again under the same id)
and gives back what lies idle. granted = remaining + reserved + spent + released, always.
"""

from collections.abc import Mapping

from darkroom import ids, postgres
from darkroom.api.billing_meter.v1 import metering_service_pb2
from darkroom.api.types.v1 import money_pb2
from darkroom.scheduler.domain import spending as domain
from darkroom.scheduler.store import outbox


async def lock(connection: postgres.Connection, tenant_ids: list[str]) -> dict[str, domain.Lease]:
    """Lock and read the leases of these tenants (in one order everywhere, so that nobody deadlocks)."""
    rows = await connection.fetch(
        "SELECT tenant_id, currency, remaining_nanos FROM spending_lease WHERE tenant_id = ANY($1::text[])"
        " ORDER BY tenant_id FOR UPDATE",
        tenant_ids,
    )
    return {row["tenant_id"]: domain.Lease(row["currency"], row["remaining_nanos"]) for row in rows}


async def debit(connection: postgres.Connection, nanos_by_tenant: Mapping[str, int]) -> None:
    """Reserve money of leases that are locked and hold enough."""
    await connection.execute(
        "UPDATE spending_lease l SET remaining_nanos = remaining_nanos - d.nanos, reserved_nanos = reserved_nanos + d.nanos,"
        " used_at = clock_timestamp() FROM unnest($1::text[], $2::bigint[]) AS d(tenant_id, nanos)"
        " WHERE l.tenant_id = d.tenant_id",
        list(nanos_by_tenant),
        list(nanos_by_tenant.values()),
    )


async def settle(connection: postgres.Connection, *, tenant_id: str, estimate_nanos: int, charge_nanos: int) -> None:
    """End a reservation: the charge is spent, the rest can be spent again."""
    await connection.execute(
        "UPDATE spending_lease SET reserved_nanos = reserved_nanos - $2, spent_nanos = spent_nanos + $3,"
        " remaining_nanos = remaining_nanos + $2 - $3, used_at = clock_timestamp() WHERE tenant_id = $1",
        tenant_id,
        estimate_nanos,
        charge_nanos,
    )


class Spending:
    """Grants and releases."""

    def __init__(self, database: postgres.Database) -> None:
        self._database = database

    async def lease(self, tenant_id: str) -> domain.Lease:
        """What the tenant can spend now; nothing if it never had a grant."""
        row = await self._database.fetchrow(
            "SELECT currency, remaining_nanos FROM spending_lease WHERE tenant_id = $1", tenant_id
        )
        return domain.Lease(row["currency"], row["remaining_nanos"]) if row else domain.NO_LEASE

    async def ask(self, grant: domain.Grant) -> None:
        """Record a grant before it is asked for."""
        await self._database.execute(
            "INSERT INTO spending_grant (grant_id, tenant_id, currency, wanted_nanos, least_nanos, state)"
            " VALUES ($1, $2, $3, $4, $5, 'ASKED')",
            *grant,
        )

    async def asked(self, *, tenant_id: str = "", older_than_s: float = 0.0) -> list[domain.Grant]:
        """Grants whose answer is not known, oldest first; of one tenant, or of all."""
        rows = await self._database.fetch(
            "SELECT grant_id, tenant_id, currency, wanted_nanos, least_nanos FROM spending_grant WHERE state = 'ASKED'"
            " AND ($1 = '' OR tenant_id = $1) AND created_at <= clock_timestamp() - $2 * interval '1 second'"
            " ORDER BY created_at LIMIT 100",
            tenant_id,
            older_than_s,
        )
        return [domain.Grant(*row) for row in rows]

    async def apply(self, grant: domain.Grant, *, granted_nanos: int) -> None:
        """Add granted money to the lease, once for each grant."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(
                "UPDATE spending_grant SET state = 'APPLIED' WHERE grant_id = $1 AND state = 'ASKED' RETURNING grant_id",
                grant.grant_id,
            )
            if row is None:
                return  # another replica applied it
            await connection.execute(
                "INSERT INTO spending_lease (tenant_id, currency, granted_nanos, remaining_nanos) VALUES ($1, $2, $3, $3)"
                " ON CONFLICT (tenant_id) DO UPDATE SET granted_nanos = spending_lease.granted_nanos + $3,"
                " remaining_nanos = spending_lease.remaining_nanos + $3, used_at = clock_timestamp()",
                grant.tenant_id,
                grant.currency,
                granted_nanos,
            )

    async def refuse(self, grant: domain.Grant) -> None:
        """Record that the meter refused a grant."""
        await self._database.execute(
            "UPDATE spending_grant SET state = 'REFUSED' WHERE grant_id = $1 AND state = 'ASKED'", grant.grant_id
        )

    async def release_idle(self, *, idle_s: float) -> int:
        """Give back the money of leases that nobody has used for so long; how many leases."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(
                "SELECT tenant_id, currency, remaining_nanos FROM spending_lease WHERE remaining_nanos > 0"
                " AND used_at <= clock_timestamp() - $1 * interval '1 second' ORDER BY tenant_id LIMIT 100"
                " FOR UPDATE SKIP LOCKED",
                idle_s,
            )
            for row in rows:
                await _release(connection, row["tenant_id"], domain.Lease(row["currency"], row["remaining_nanos"]))
            return len(rows)

    async def sweep(self, *, older_than_s: float) -> int:
        """Delete grants that were answered that long ago; how many rows went."""
        tag = await self._database.execute(
            "DELETE FROM spending_grant WHERE state <> 'ASKED' AND created_at < clock_timestamp() - $1 * interval '1 second'",
            older_than_s,
        )
        return int(tag.split()[1])


async def _release(connection: postgres.Connection, tenant_id: str, lease: domain.Lease) -> None:
    release = metering_service_pb2.ReleaseLeaseRequest(
        tenant_id=tenant_id,
        release_id=ids.new("lea"),
        amount=money_pb2.Money(currency=lease.currency, nanos=lease.remaining_nanos),
    )
    await connection.execute(
        "UPDATE spending_lease SET remaining_nanos = remaining_nanos - $2, released_nanos = released_nanos + $2"
        " WHERE tenant_id = $1",
        tenant_id,
        lease.remaining_nanos,
    )
    await outbox.add(connection, kind="RELEASE", subject_id=release.release_id, payload=release.SerializeToString())
