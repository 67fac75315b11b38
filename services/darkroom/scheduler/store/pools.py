"""Who owns which pool: leases on the database's clock.

`loop.owner` claims, renews and hands back; every write for a pool first `hold`s the lease in its own transaction, so that an owner
that was replaced changes nothing, however late it wakes up.
"""

from collections.abc import Sequence
from typing import NamedTuple

from darkroom import errors, postgres
from darkroom.scheduler import leases
from darkroom.scheduler.domain import fleet


class Outlook(NamedTuple):
    """Every pool that has runners or running work, and for how long the database has been up."""

    standings: list[leases.Standing]
    up_s: float


async def hold(connection: postgres.Connection, fence: fleet.Fence) -> None:
    """Keep the ownership from changing until the end of the transaction; Aborted if it has changed already."""
    row = await connection.fetchrow(
        "SELECT 1 FROM pool_lease WHERE pool = $1 AND owner_id = $2 AND epoch = $3 FOR SHARE", *fence
    )
    if row is None:
        raise errors.Aborted("STALE_OWNER", "another replica owns the pool now")


class Pools:
    """The table `pool_lease`."""

    def __init__(self, database: postgres.Database, *, lease_s: float) -> None:
        self._database = database
        self._lease_s = lease_s

    async def outlook(self) -> Outlook:
        """Read where every pool stands."""
        rows = await self._database.fetch(
            "SELECT p.pool, coalesce(l.owner_id, '') AS owner_id,"
            " coalesce(l.expires_at <= clock_timestamp(), true) AS expired,"
            " extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::float8 AS up_s"
            " FROM (SELECT pool FROM runner WHERE lost_at IS NULL"
            "       UNION SELECT pool FROM generation WHERE state = 'RUNNING') p LEFT JOIN pool_lease l USING (pool)"
        )
        return Outlook([leases.Standing(*row[:3]) for row in rows], rows[0]["up_s"] if rows else 0.0)

    async def claim(self, pool: str, owner_id: str) -> fleet.Fence | None:
        """Become the owner under a new epoch, if nobody is or the owner's lease has run out."""
        epoch = await self._database.fetchval(
            "INSERT INTO pool_lease AS l (pool, owner_id, epoch, expires_at)"
            " VALUES ($1, $2, 1, clock_timestamp() + $3 * interval '1 second')"
            " ON CONFLICT (pool) DO UPDATE SET owner_id = $2, epoch = l.epoch + 1, expires_at = excluded.expires_at"
            " WHERE l.owner_id = '' OR l.expires_at <= clock_timestamp() RETURNING epoch",
            pool,
            owner_id,
            self._lease_s,
        )
        return None if epoch is None else fleet.Fence(pool, owner_id, epoch)

    async def renew(self, fences: Sequence[fleet.Fence]) -> set[fleet.Fence]:
        """Prolong ownerships; those that are still ours."""
        rows = await self._database.fetch(
            "UPDATE pool_lease l SET expires_at = clock_timestamp() + $4 * interval '1 second'"
            " FROM unnest($1::text[], $2::text[], $3::bigint[]) AS mine(pool, owner_id, epoch)"
            " WHERE (l.pool, l.owner_id, l.epoch) = (mine.pool, mine.owner_id, mine.epoch)"
            " RETURNING l.pool, l.owner_id, l.epoch",
            [fence.pool for fence in fences],
            [fence.owner_id for fence in fences],
            [fence.epoch for fence in fences],
            self._lease_s,
        )
        return {fleet.Fence(*row) for row in rows}

    async def release(self, fence: fleet.Fence) -> None:
        """Hand the pool back, so that the next owner need not wait."""
        await self._database.execute(
            "UPDATE pool_lease SET owner_id = '', expires_at = clock_timestamp()"
            " WHERE pool = $1 AND owner_id = $2 AND epoch = $3",
            *fence,
        )
