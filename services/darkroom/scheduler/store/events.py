"""Changes of state, so that a watcher on any replica sees each of them once and in order.

Every write of a generation's state appends one event in the same transaction; progress is on the generation's row alone. `follow`
wakes the watchers.
"""

from collections.abc import Collection
from typing import NamedTuple

from darkroom import errors, postgres
from darkroom.scheduler.domain import generation as domain


class Snapshot(NamedTuple):
    """One generation at one moment, with the changes of state after a sequence number, oldest first."""

    row: postgres.Row
    events: list[domain.Event]


async def append(connection: postgres.Connection, *, generation_id: str, sequence: int, state: domain.State) -> None:
    """Record that the generation came into `state` at its `sequence`."""
    await connection.execute(
        "INSERT INTO generation_event (generation_id, sequence, state) VALUES ($1, $2, $3)",
        generation_id,
        sequence,
        state.value,
    )


class Events:
    """Reads what changed."""

    def __init__(self, database: postgres.Database) -> None:
        self._database = database

    async def since(self, *, generation_id: str, after_sequence: int) -> Snapshot:
        """Read the generation and its events after a sequence number in one statement, so that both agree."""
        rows = await self._database.fetch(
            "SELECT g.*, e.sequence AS event_sequence, e.state AS event_state, e.at AS event_at FROM generation g"
            " LEFT JOIN generation_event e ON e.generation_id = g.generation_id AND e.sequence > $2"
            " WHERE g.generation_id = $1 ORDER BY e.sequence",
            generation_id,
            after_sequence,
        )
        if not rows:
            raise errors.NotFound("generation", generation_id)
        return Snapshot(
            row=rows[0],
            events=[
                domain.Event(row["event_sequence"], domain.State(row["event_state"]), row["event_at"])
                for row in rows
                if row["event_sequence"] is not None
            ],
        )

    async def sequences(self, generation_ids: Collection[str]) -> dict[str, int]:
        """The present sequence number of each generation."""
        rows = await self._database.fetch(
            "SELECT generation_id, sequence FROM generation WHERE generation_id = ANY($1::text[])", list(generation_ids)
        )
        return {row["generation_id"]: row["sequence"] for row in rows}
