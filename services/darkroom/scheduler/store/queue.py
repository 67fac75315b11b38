"""What waits, as much of it as one placement pass needs to see.

The models that a pool may load come in; `Job`s go out to `schedule`. A tenant with 100,000 generations waiting costs no more than one
with a hundred: only the first few of each line (model, class, tenant) are read, by a walk along the index from line to line.
"""

from collections.abc import Mapping
from typing import NamedTuple

from darkroom import postgres
from darkroom.scheduler.domain import fleet

_WINDOW = """
WITH RECURSIVE line AS (
    (SELECT model, priority, tenant_id FROM generation WHERE state = 'QUEUED' AND model = ANY($1::text[])
     ORDER BY model, priority, tenant_id LIMIT 1)
    UNION ALL
    SELECT following.* FROM line, LATERAL (
        SELECT g.model, g.priority, g.tenant_id FROM generation g WHERE g.state = 'QUEUED' AND g.model = ANY($1::text[])
        AND (g.model, g.priority, g.tenant_id) > (line.model, line.priority, line.tenant_id)
        ORDER BY g.model, g.priority, g.tenant_id LIMIT 1) following
)
SELECT waiting.* FROM line, LATERAL (
    SELECT g.generation_id, g.tenant_id, g.model, g.shape, g.priority, g.steps_total, g.work_us, g.fixed_us, g.encode_us,
           g.suspect, g.attempt, g.runner_id, coalesce((g.checkpoint ->> 'step')::int, 0) AS steps_kept,
           extract(epoch FROM clock_timestamp() - g.created_at)::float8 AS waited_s,
           extract(epoch FROM g.deadline - clock_timestamp())::float8 AS deadline_s
    FROM generation g WHERE g.state = 'QUEUED' AND (g.model, g.priority, g.tenant_id)
        = (line.model, line.priority, line.tenant_id) AND NOT g.cancel_requested
        AND (g.deadline IS NULL OR g.deadline > clock_timestamp())
    ORDER BY g.deadline, g.created_at LIMIT $2) waiting
"""


class Needs(NamedTuple):
    """What a model takes, from the catalogue."""

    memory_bytes: int
    load_us: int


class Queue:
    """Reads the queue."""

    def __init__(self, database: postgres.Database, *, window: int) -> None:
        self._database = database
        self._window = window

    async def first(self, models: Mapping[str, Needs]) -> list[fleet.Job]:
        """The first jobs of every line for these models."""
        rows = await self._database.fetch(_WINDOW, list(models), self._window)
        return [_job(row, models[row["model"]]) for row in rows]


def _job(row: postgres.Row, needs: Needs) -> fleet.Job:
    return fleet.Job(
        generation_id=row["generation_id"],
        tenant_id=row["tenant_id"],
        model=row["model"],
        shape=row["shape"],
        priority=row["priority"],
        steps_total=row["steps_total"],
        work_us=row["work_us"],
        fixed_us=row["fixed_us"],
        encode_us=row["encode_us"],
        waited_s=row["waited_s"],
        deadline_s=row["deadline_s"],
        suspect=row["suspect"],
        attempt=row["attempt"],
        steps_kept=row["steps_kept"],
        last_runner_id=row["runner_id"] or "",
        model_memory_bytes=needs.memory_bytes,
        model_load_us=needs.load_us,
    )
