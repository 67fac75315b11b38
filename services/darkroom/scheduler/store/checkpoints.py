"""Where generations can be gone on with: the newest checkpoint of each, and those whose bytes may go.

The owner of a pool `keep`s what its runners tell, fenced by the attempt's key; `attempts.begin` gives it to the next attempt. One that is
superseded, or whose generation has ended, is `discard`ed here and deleted from media_store by `loop.sweep`.
"""

import dataclasses
from collections.abc import Collection
from typing import Any, NamedTuple

from darkroom import postgres, pricing
from darkroom.scheduler.domain import fleet
from darkroom.scheduler.domain import generation as domain

_QUANTITIES = frozenset(field.name for field in dataclasses.fields(pricing.Quantities))


class Discarded(NamedTuple):
    """Bytes in media_store that nobody needs."""

    media_id: str
    tenant_id: str
    generation_id: str


def read(generation: domain.Generation) -> fleet.Checkpoint | None:
    """Where the generation can be gone on with; None means from its start."""
    return _read(generation.checkpoint)


async def discard(connection: postgres.Connection, *, tenant_id: str, checkpoint: fleet.Checkpoint) -> None:
    """Note that a checkpoint's bytes may go."""
    await connection.execute(
        "INSERT INTO discarded_checkpoint (media_id, tenant_id, generation_id) VALUES ($1, $2, $3)"
        " ON CONFLICT (media_id) DO NOTHING",
        checkpoint.media_id,
        tenant_id,
        checkpoint.key.generation_id,
    )


class Checkpoints:
    """The column `checkpoint` of `generation`, and the table `discarded_checkpoint`."""

    def __init__(self, database: postgres.Database) -> None:
        self._database = database

    async def keep(self, checkpoint: fleet.Checkpoint) -> bool:
        """Make it the newest; False, and its bytes may go, if its attempt is not current or has told a later one.

        An attempt that could not use the one it was given has begun anew: its own count, however early.
        """
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(
                "SELECT tenant_id, checkpoint, state = 'RUNNING' AND owner_epoch = $2 AND attempt = $3 AS is_current"
                " FROM generation WHERE generation_id = $1 FOR UPDATE",
                *checkpoint.key,
            )
            before = None if row is None else _read(row["checkpoint"])
            if row is None or (before is not None and before.media_id == checkpoint.media_id):  # told again
                return False
            if not row["is_current"] or (before is not None and _order(before) >= _order(checkpoint)):
                await discard(connection, tenant_id=row["tenant_id"], checkpoint=checkpoint)
                return False
            if before is not None:
                await discard(connection, tenant_id=row["tenant_id"], checkpoint=before)
            await connection.execute(
                "UPDATE generation SET checkpoint = $2 WHERE generation_id = $1",
                checkpoint.key.generation_id,
                checkpoint._asdict(),
            )
            return True

    async def due(self, *, limit: int, again_s: float) -> list[Discarded]:
        """Take discarded checkpoints to delete; one that is not then forgotten is due again after `again_s`."""
        rows = await self._database.fetch(
            "UPDATE discarded_checkpoint d SET next_try_at = clock_timestamp() + $2 * interval '1 second'"
            " FROM (SELECT media_id FROM discarded_checkpoint WHERE next_try_at <= statement_timestamp()"
            "       ORDER BY next_try_at LIMIT $1 FOR UPDATE SKIP LOCKED) t"
            " WHERE d.media_id = t.media_id RETURNING d.media_id, d.tenant_id, d.generation_id",
            limit,
            again_s,
        )
        return [Discarded(*row) for row in rows]

    async def forget(self, media_ids: Collection[str]) -> None:
        """Forget those whose bytes are gone."""
        await self._database.execute(
            "DELETE FROM discarded_checkpoint WHERE media_id = ANY($1::text[])", list(media_ids)
        )


def _order(checkpoint: fleet.Checkpoint) -> tuple[int, int]:
    return checkpoint.key.attempt, checkpoint.step


def _read(column: dict[str, Any] | None) -> fleet.Checkpoint | None:
    """Read the column; what a later version counts besides is left out."""
    if column is None:
        return None
    used = {name: value for name, value in column["usage"].items() if name in _QUANTITIES}
    return fleet.Checkpoint(fleet.Key(*column["key"]), column["media_id"], column["step"], used)
