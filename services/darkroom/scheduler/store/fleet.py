"""The table `runner`: who registered, when they were last heard of, and what their pool's owner knows of them.

Runners register at any replica; the owner of a pool reads its runners here, writes what their streams tell (`status`), and marks the
dead. `servicer.fleet` and `loop.forecast` read it on any replica.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from darkroom import postgres
from darkroom.scheduler.domain import fleet

LOST_KEPT_S = 3600

# predict.left_us
_LEFT = "fixed_us + (work_us - fixed_us) * greatest(steps_total - steps_done, 0) / greatest(steps_total, 1)"
_LOADS = f"""
SELECT model, priority, sum({_LEFT})::bigint AS work_us, '' AS runner_id, 0 AS aboard_us
FROM generation WHERE state = 'QUEUED' GROUP BY model, priority
UNION ALL
SELECT g.model, g.priority, sum({_LEFT})::bigint, g.runner_id,
       (extract(epoch FROM clock_timestamp() - min(a.started_at)) * 1000000)::bigint
FROM generation g JOIN attempt a USING (generation_id, attempt)
WHERE g.state = 'RUNNING' GROUP BY g.model, g.priority, g.runner_id
"""


class Registration(NamedTuple):
    """What a runner says of itself; `device` is the proto Device as JSON."""

    runner_id: str
    pool: str
    node: str
    address: str
    device: dict[str, Any]
    models: list[str]
    draining: bool


class Row(NamedTuple):
    """A runner as anybody may see it; `status` is what the pool's owner last wrote (see `loop.link.status`)."""

    registration: Registration
    status: dict[str, Any]
    registered_at: datetime
    seen_at: datetime
    lost: bool


class Fleet:
    """Reads and writes the fleet."""

    def __init__(self, database: postgres.Database) -> None:
        self._database = database

    async def register(self, runner: Registration) -> bool:
        """Add a runner or note that it lives; False if it was taken for dead, for it never comes back under its id."""
        row = await self._database.fetchrow(
            "INSERT INTO runner AS r (runner_id, pool, node, address, device, models, draining)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7)"
            " ON CONFLICT (runner_id) DO UPDATE SET address = $4, draining = $7, seen_at = clock_timestamp()"
            " WHERE r.lost_at IS NULL AND r.pool = $2 RETURNING runner_id",
            *runner,
        )
        return row is not None

    async def of_pool(self, pool: str) -> list[Registration]:
        """The pool's runners that are not known to be dead."""
        rows = await self._database.fetch(
            "SELECT runner_id, pool, node, address, device, models, draining FROM runner"
            " WHERE pool = $1 AND lost_at IS NULL",
            pool,
        )
        return [Registration(*row) for row in rows]

    async def save_status(self, statuses: Mapping[str, dict[str, Any]]) -> None:
        """Publish what the owner knows of its runners, for the other replicas."""
        await self._database.execute(
            "UPDATE runner r SET status = s.status FROM unnest($1::text[], $2::jsonb[]) AS s(runner_id, status)"
            " WHERE r.runner_id = s.runner_id",
            list(statuses),
            list(statuses.values()),
        )

    async def page(self, *, after_id: str, include_lost: bool, limit: int) -> list[Row]:
        """Runners by id, after `after_id`."""
        rows = await self._database.fetch(
            "SELECT * FROM runner WHERE runner_id > $1 AND ($2 OR lost_at IS NULL) ORDER BY runner_id LIMIT $3",
            after_id,
            include_lost,
            limit,
        )
        return [_row(row) for row in rows]

    async def live(self, *, seen_within_s: float) -> list[Row]:
        """Runners that take work: registered lately, not lost, not draining, not quarantined."""
        rows = await self._database.fetch(
            "SELECT * FROM runner WHERE lost_at IS NULL AND NOT draining"
            " AND seen_at > clock_timestamp() - $1 * interval '1 second' AND coalesce(status ->> 'quarantine', '') = ''",
            seen_within_s,
        )
        return [_row(row) for row in rows]

    async def loads(self) -> list[fleet.Load]:
        """What waits, and what is aboard each runner."""
        rows = await self._database.fetch(_LOADS)
        return [fleet.Load(*row) for row in rows]

    async def sweep(self) -> None:
        """Forget runners that were lost more than an hour ago."""
        await self._database.execute(
            "DELETE FROM runner WHERE lost_at < clock_timestamp() - $1 * interval '1 second'", LOST_KEPT_S
        )


def _row(row: postgres.Row) -> Row:
    registration = Registration(*(row[name] for name in Registration._fields))
    lost = row["lost_at"] is not None
    return Row(registration, row["status"] or {}, row["registered_at"], row["seen_at"], lost)
