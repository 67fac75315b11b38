"""The table `generation`: reading, listing, cancelling, and the one way to a final state.

Rows come out as `domain.generation.Generation`. `end` is the terminal write of both halves of the room: state, event, money and
billing outcome in its caller's transaction, so that a finished generation has exactly one outcome. `creates` inserts the rows.
"""

import dataclasses
from collections.abc import AsyncIterator, Collection
from typing import Any, NamedTuple

from darkroom import errors, postgres, pricing
from darkroom.scheduler import price
from darkroom.scheduler.domain import generation as domain
from darkroom.scheduler.store import checkpoints, events, outbox, spending

READ_MAX = 20
"""Generations in memory at a time: each may have half a megabyte of pictures in its request."""

_COLUMNS = tuple(field.name for field in dataclasses.fields(domain.Generation))
_QUEUED_US = """(extract(epoch FROM clock_timestamp() - created_at - coalesce((SELECT sum(ended_at - attempt.started_at)
    FROM attempt WHERE attempt.generation_id = generation.generation_id), interval '0')) * 1000000)::bigint"""


class Filters(NamedTuple):
    """Which generations to list; empty texts mean all."""

    tenant_id: str
    state: str = ""
    model: str = ""


class End(NamedTuple):
    """How a generation ends: exactly one of a charge and a reason for none."""

    state: domain.State
    usage: pricing.Quantities = pricing.Quantities()
    charge_nanos: int = 0
    free_reason: str = ""  # empty means charged
    error: dict[str, Any] | None = None
    stages: dict[str, int] | None = None  # None: no runner has told them, so that it is known only how long it waited
    artifacts: list[dict[str, Any]] = []  # noqa: RUF012  # a tuple's default, never changed
    resumed_step: int = 0  # if progress has not told it yet


CANCELLED_BY_CALLER = End(
    state=domain.State.CANCELLED,
    free_reason="CANCELLED",
    error={"reason": "CANCELLED", "message": "The caller cancelled it.", "retryable": False},
)
DEADLINE_EXCEEDED = End(
    state=domain.State.CANCELLED,
    free_reason="DEADLINE_EXCEEDED",
    error={"reason": "DEADLINE_EXCEEDED", "message": "Its deadline passed before it was done.", "retryable": True},
)


def cancelled(
    generation: domain.Generation, *, charging: Collection[str], usage: pricing.Quantities | None = None
) -> End:
    """How one ends by its caller or else its deadline: charged for used steps if its model is in `charging`, else free.

    Without the `usage` that a runner tells, what the generation's checkpoint has counted was used.
    """
    ended = CANCELLED_BY_CALLER if generation.cancel_requested else DEADLINE_EXCEEDED
    checkpoint = checkpoints.read(generation)
    if (usage is None or not usage.steps) and checkpoint is not None:
        usage = pricing.Quantities(**checkpoint.usage)
    if usage is None:
        return ended
    if generation.model in charging and usage.steps:
        rates = price.read_rates(generation.rates)
        charge_nanos = price.charge_nanos(rates, usage, estimate_nanos=generation.estimate_nanos)
        return ended._replace(usage=usage, charge_nanos=charge_nanos, free_reason="")
    return ended._replace(usage=usage)


def read(row: postgres.Row) -> domain.Generation:
    """Turn a row with every column of `generation` into the noun."""
    values = {name: row[name] for name in _COLUMNS}
    values["state"] = domain.State(values["state"])
    values["priority"] = domain.Priority(values["priority"])
    return domain.Generation(**values)


async def end(connection: postgres.Connection, generation: domain.Generation, end: End) -> domain.Generation:
    """Write a final state with its event, the lease's settlement and the billing outcome.

    The caller holds the generation's row lock and has checked its fence.
    """
    row = await connection.fetchrow(
        "UPDATE generation SET state = $2, error = $3, usage = $4, artifacts = $6, sequence = sequence + 1,"
        f" stages = coalesce($5, jsonb_build_object('queued_us', {_QUEUED_US})),"
        " checkpoint = NULL, resumed_step = greatest(resumed_step, $7),"
        " steps_done = CASE WHEN $2 = 'SUCCEEDED' THEN steps_total ELSE steps_done END,"
        " finished_at = clock_timestamp(), expected_finish_at = NULL WHERE generation_id = $1 RETURNING *",
        generation.generation_id,
        end.state.value,
        end.error,
        dataclasses.asdict(end.usage),
        end.stages,
        end.artifacts,
        end.resumed_step,
    )
    assert row is not None, "the caller holds its lock"
    ended = read(row)
    await events.append(connection, generation_id=ended.generation_id, sequence=ended.sequence, state=ended.state)
    if (checkpoint := checkpoints.read(generation)) is not None:
        await checkpoints.discard(connection, tenant_id=ended.tenant_id, checkpoint=checkpoint)
    await outbox.add_outcome(
        connection, ended, usage=end.usage, amount_nanos=end.charge_nanos, free_reason=end.free_reason
    )
    await spending.settle(  # last, for the lease's row is every finishing generation's of the tenant
        connection,
        tenant_id=ended.tenant_id,
        estimate_nanos=ended.estimate_nanos,
        charge_nanos=end.charge_nanos,
    )
    return ended


class Generations:
    """A tenant's view of its generations; another tenant's id is NotFound, as if there were none.

    Cancelled work of the models in `charging` is charged for used steps.
    """

    def __init__(self, database: postgres.Database, *, charging: Collection[str] = ()) -> None:
        self._database = database
        self._charging = charging

    async def get(self, *, tenant_id: str, generation_id: str) -> domain.Generation:
        """Read one."""
        row = await self._database.fetchrow(
            "SELECT * FROM generation WHERE generation_id = $1 AND tenant_id = $2", generation_id, tenant_id
        )
        if row is None:
            raise errors.NotFound("generation", generation_id)
        return read(row)

    async def page(self, filters: Filters, *, before_id: str, limit: int) -> AsyncIterator[domain.Generation]:
        """Yield the newest that are older than `before_id` (empty: the newest of all), a few of them read at a time."""
        while limit:
            asked = {"state =": filters.state, "model =": filters.model, "generation_id <": before_id}
            asked = {what: value for what, value in asked.items() if value}  # what is not asked for hides no index
            rows = await self._database.fetch(
                "SELECT * FROM generation WHERE tenant_id = $1"
                + "".join(f" AND {what} ${number}" for number, what in enumerate(asked, 3))
                + " ORDER BY generation_id DESC LIMIT $2",
                filters.tenant_id,
                count := min(limit, READ_MAX),
                *asked.values(),
            )
            for row in rows:
                yield read(row)
            if len(rows) < count:
                return
            before_id, limit = rows[-1]["generation_id"], limit - count

    async def cancel(self, *, tenant_id: str, generation_id: str) -> domain.Generation:
        """End one that waits; ask for the end of one that runs; return a finished one unchanged."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(
                "SELECT * FROM generation WHERE generation_id = $1 AND tenant_id = $2 FOR UPDATE",
                generation_id,
                tenant_id,
            )
            if row is None:
                raise errors.NotFound("generation", generation_id)
            generation = read(row)
            if generation.state is domain.State.QUEUED:
                asked = dataclasses.replace(generation, cancel_requested=True)
                return await end(connection, asked, cancelled(asked, charging=self._charging))
            if generation.state is domain.State.RUNNING:
                await connection.execute(
                    "UPDATE generation SET cancel_requested = true WHERE generation_id = $1", generation_id
                )
            return generation

    async def end_waiting(self, *, limit: int) -> list[domain.Generation]:
        """End those that wait although their deadline has passed."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(
                "SELECT * FROM generation WHERE state = 'QUEUED' AND deadline <= statement_timestamp()"  # as an index needs it
                " ORDER BY tenant_id, generation_id LIMIT $1 FOR UPDATE SKIP LOCKED",
                limit,
            )
            waiting = map(read, rows)
            return [await end(connection, one, cancelled(one, charging=self._charging)) for one in waiting]

    async def queued_by_tenant(self) -> dict[str, int]:
        """Count those that wait, by tenant."""
        rows = await self._database.fetch(
            "SELECT tenant_id, count(*) AS waiting FROM generation WHERE state = 'QUEUED' GROUP BY tenant_id"
        )
        return {row["tenant_id"]: row["waiting"] for row in rows}
