"""Attempts: begun, ended, begun again; every write is fenced.

The owner of a pool calls these with its `Fence` (is the pool still ours?) and, to end an attempt, its `Key` (is that attempt still the
current one?). A key that is not current changes nothing. A generation's end goes through `generations.end`, which gives it its one
billing outcome in the same transaction.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

from darkroom import postgres
from darkroom.scheduler import poison
from darkroom.scheduler.domain import fleet
from darkroom.scheduler.domain import generation as domain
from darkroom.scheduler.store import checkpoints, events, generations, pools


class Step(NamedTuple):
    """How far an attempt is, and at which step it began."""

    key: fleet.Key
    steps_done: int
    remaining_us: int
    resumed_step: int = 0


class Due(NamedTuple):
    """A running attempt that must end: cancelled by its caller, or late."""

    key: fleet.Key
    runner_id: str


Judge = Callable[[domain.Generation, bool], poison.Verdict]  # (generation, ran alone) -> what becomes of it

_CURRENT = (
    "SELECT g.*, a.solo, (extract(epoch FROM a.started_at - g.created_at - coalesce((SELECT sum(b.ended_at - b.started_at)"
    " FROM attempt b WHERE b.generation_id = g.generation_id AND b.attempt < g.attempt), interval '0')) * 1000000)::bigint"
    " AS queued_us, (extract(epoch FROM clock_timestamp() - g.created_at) * 1000000)::bigint AS elapsed_us FROM generation g JOIN attempt a USING (generation_id, attempt) WHERE g.state = 'RUNNING' AND "
)


class Attempts:
    """The table `attempt` and the running half of `generation`."""

    def __init__(self, database: postgres.Database, *, charging: Collection[str] = ()) -> None:
        self._database = database
        self._charging = charging

    async def running(self, pool: str) -> list[fleet.Attempt]:
        """Everything that runs in the pool."""
        rows = await self._database.fetch(
            "SELECT g.generation_id, g.owner_epoch, g.attempt, g.tenant_id, g.model, g.runner_id, a.solo, g.priority,"
            " g.work_us, g.fixed_us, g.steps_total, g.steps_done,"
            " (extract(epoch FROM clock_timestamp() - a.started_at) * 1000000)::bigint AS aboard_us"
            " FROM generation g JOIN attempt a USING (generation_id, attempt) WHERE g.state = 'RUNNING' AND g.pool = $1",
            pool,
        )
        return [fleet.Attempt(fleet.Key(*row[:3]), *row[3:]) for row in rows]

    async def begin(self, fence: fleet.Fence, placements: Sequence[fleet.Placement]) -> list[fleet.Begun]:
        """Commit placements; those whose generation was ended or taken by another pool meanwhile are left out."""
        chosen = {one.job.generation_id: one for one in placements}
        async with self._database.transaction() as connection:
            await pools.hold(connection, fence)
            rows = await connection.fetch(
                "UPDATE generation g SET state = 'RUNNING', attempt = g.attempt + 1, owner_epoch = $3, pool = $4,"
                " runner_id = p.runner_id, steps_done = coalesce((g.checkpoint ->> 'step')::int, 0), resumed_step = 0,"
                " sequence = g.sequence + 1,"
                " started_at = coalesce(g.started_at, clock_timestamp()),"
                " expected_finish_at = clock_timestamp() + p.predicted_us * interval '1 microsecond'"
                " FROM (SELECT c.generation_id, t.runner_id, t.predicted_us FROM generation c"
                "       JOIN unnest($1::text[], $2::text[], $5::bigint[]) AS t(generation_id, runner_id, predicted_us)"
                "       USING (generation_id) WHERE c.state = 'QUEUED' AND NOT c.cancel_requested"
                "       ORDER BY c.generation_id FOR UPDATE OF c SKIP LOCKED) p"
                " WHERE g.generation_id = p.generation_id RETURNING g.*",
                list(chosen),
                [one.decision.runner_id for one in placements],
                fence.epoch,
                fence.pool,
                [one.decision.predicted_us for one in placements],
            )
            return [await _record(connection, fence, generations.read(row), chosen) for row in rows]

    async def finish(
        self, fence: fleet.Fence, key: fleet.Key, ending: Callable[[domain.Generation], generations.End]
    ) -> domain.Generation | None:
        """End the generation as `ending` says of its row; None, and nothing changed, if the attempt is not current."""
        async with self._database.transaction() as connection:
            await pools.hold(connection, fence)
            row = await connection.fetchrow(
                _CURRENT + "g.generation_id = $1 AND g.owner_epoch = $2 AND g.attempt = $3 FOR UPDATE OF g", *key
            )
            if row is None:
                return None
            generation = generations.read(row)
            end = ending(generation)
            end = end._replace(stages=_whole(row, end.stages or {}))
            resumed_step = max(generation.resumed_step, end.resumed_step)
            await _close(connection, generation, end.state.value, resumed_step=resumed_step)
            return await generations.end(connection, generation, end)

    async def give_back(
        self, fence: fleet.Fence, keys: Iterable[fleet.Key], *, reason: str, judge: Judge
    ) -> list[domain.Generation]:
        """End attempts through no fault of their requests; those that were current, as they are now."""
        async with self._database.transaction() as connection:
            await pools.hold(connection, fence)
            rows = await connection.fetch(
                _CURRENT + "(g.generation_id, g.owner_epoch, g.attempt) IN"
                " (SELECT * FROM unnest($1::text[], $2::bigint[], $3::int[]))"
                " ORDER BY g.tenant_id, g.generation_id FOR UPDATE OF g",
                *(list(column) for column in zip(*keys, strict=True)),
            )
            return [await self._again(connection, row, reason, judge) for row in rows]

    async def lose_runner(self, fence: fleet.Fence, runner_id: str, *, judge: Judge) -> list[domain.Generation]:
        """Declare a runner dead for ever, and end the attempts aboard; their generations, as they are now."""
        async with self._database.transaction() as connection:
            await pools.hold(connection, fence)
            await connection.execute(
                "UPDATE runner SET lost_at = clock_timestamp() WHERE runner_id = $1 AND lost_at IS NULL", runner_id
            )
            rows = await connection.fetch(
                _CURRENT + "g.pool = $1 AND g.runner_id = $2 ORDER BY g.tenant_id, g.generation_id FOR UPDATE OF g",
                fence.pool,
                runner_id,
            )
            return [await self._again(connection, row, poison.RUNNER_LOST, judge) for row in rows]

    async def due(self, pool: str) -> list[Due]:
        """Running attempts of the pool that must end."""
        rows = await self._database.fetch(
            "SELECT generation_id, owner_epoch, attempt, runner_id FROM generation WHERE state = 'RUNNING' AND pool = $1"
            " AND (cancel_requested OR deadline <= clock_timestamp())",
            pool,
        )
        return [Due(fleet.Key(*row[:3]), row["runner_id"]) for row in rows]

    async def progress(self, steps: Sequence[Step]) -> None:
        """Write how far running attempts are; those that are not current stay as they are."""
        await self._database.execute(
            "UPDATE generation g SET steps_done = s.steps_done, resumed_step = s.resumed_step, sequence = g.sequence + 1,"
            " expected_finish_at = clock_timestamp() + s.remaining_us * interval '1 microsecond'"
            " FROM unnest($1::text[], $2::bigint[], $3::int[], $4::int[], $5::bigint[], $6::int[])"
            "   AS s(generation_id, owner_epoch, attempt, steps_done, remaining_us, resumed_step)"
            " WHERE g.state = 'RUNNING' AND g.generation_id = s.generation_id AND g.owner_epoch = s.owner_epoch"
            " AND g.attempt = s.attempt",
            [step.key.generation_id for step in steps],
            [step.key.owner_epoch for step in steps],
            [step.key.attempt for step in steps],
            [step.steps_done for step in steps],
            [step.remaining_us for step in steps],
            [step.resumed_step for step in steps],
        )

    async def _again(
        self, connection: postgres.Connection, row: postgres.Row, reason: str, judge: Judge
    ) -> domain.Generation:
        generation = generations.read(row)
        await _close(connection, generation, reason, resumed_step=generation.resumed_step)
        verdict = judge(generation, row["solo"])
        await connection.execute(
            "UPDATE generation SET suspect = $2, solo_deaths = $3, suspensions = suspensions + $4 WHERE generation_id = $1",
            generation.generation_id,
            verdict.suspect,
            verdict.solo_deaths,
            int(verdict.forgiven),
        )
        if generation.cancel_requested:
            return await generations.end(
                connection, generation, generations.cancelled(generation, charging=self._charging)
            )
        if verdict.failure:
            return await generations.end(connection, generation, _given_up(verdict.failure))
        queued = await connection.fetchrow(
            "UPDATE generation SET state = 'QUEUED', steps_done = coalesce((checkpoint ->> 'step')::int, 0),"
            " expected_finish_at = NULL, pool = NULL, sequence = sequence + 1 WHERE generation_id = $1 RETURNING *",
            generation.generation_id,
        )
        assert queued is not None, "its lock is held"
        again = generations.read(queued)
        await events.append(connection, generation_id=again.generation_id, sequence=again.sequence, state=again.state)
        return again


def _whole(row: postgres.Row, told: dict[str, int]) -> dict[str, int]:
    """Where the whole time went: a runner's stages, the waiting before them, and what earlier attempts spent in vain."""
    stages = {**told, "queued_us": row["queued_us"] + told.get("queued_us", 0)}
    if told and row["attempt"] > 1:
        stages["lost_us"] = max(row["elapsed_us"] - sum(stages.values()), 0)
    return stages


async def _record(
    connection: postgres.Connection,
    fence: fleet.Fence,
    generation: domain.Generation,
    chosen: dict[str, fleet.Placement],
) -> fleet.Begun:
    placement = chosen[generation.generation_id]
    solo = placement.job.suspect
    await events.append(
        connection, generation_id=generation.generation_id, sequence=generation.sequence, state=generation.state
    )
    await connection.execute(
        "INSERT INTO attempt (generation_id, attempt, owner_epoch, pool, runner_id, solo, decision)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7)",
        generation.generation_id,
        generation.attempt,
        fence.epoch,
        fence.pool,
        placement.decision.runner_id,
        solo,
        as_json(placement.decision),
    )
    key = fleet.Key(generation.generation_id, fence.epoch, generation.attempt)
    attempt = fleet.Attempt(
        key,
        generation.tenant_id,
        generation.model,
        placement.decision.runner_id,
        solo,
        int(generation.priority),
        generation.work_us,
        generation.fixed_us,
        generation.steps_total,
        generation.steps_done,
    )
    kept = checkpoints.read(generation)
    return fleet.Begun(attempt, generation.model_revision, generation.input, generation.deadline, kept)


def as_json(decision: fleet.Decision) -> dict[str, Any]:
    """A decision as `explain.decisions` reads it back."""
    return {**decision._asdict(), "candidates": [candidate._asdict() for candidate in decision.candidates]}


def _given_up(failure: str) -> generations.End:
    error = {"reason": failure, "message": poison.MESSAGES[failure], "retryable": failure != poison.POISONED}
    return generations.End(state=domain.State.FAILED, free_reason="FAILED", error=error)


async def _close(
    connection: postgres.Connection, generation: domain.Generation, end_reason: str, *, resumed_step: int
) -> None:
    await connection.execute(
        "UPDATE attempt SET ended_at = clock_timestamp(), end_reason = $3, resumed_step = $4"
        " WHERE generation_id = $1 AND attempt = $2",
        generation.generation_id,
        generation.attempt,
        end_reason,
        resumed_step,
    )
