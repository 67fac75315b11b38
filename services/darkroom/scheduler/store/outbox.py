"""What billing_meter must be told, exactly once each.

Terminal transactions add an outcome, the idle sweep adds a release; `loop.outbox` claims them in batches and marks what came of
them. A claim lapses by itself (on the database's clock), so a replica that dies loses nothing; the meter is idempotent, so one that
is late doubles nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

from darkroom import postgres, pricing
from darkroom.api.billing_meter.v1 import metering_service_pb2
from darkroom.api.types.v1 import media_pb2, money_pb2
from darkroom.scheduler.domain import generation as domain

CLAIM_S = 60.0


class Entry(NamedTuple):
    """One message that waits; `kind` is OUTCOME or RELEASE."""

    outbox_id: int
    kind: str
    subject_id: str
    payload: bytes
    attempts: int


async def add_outcome(
    connection: postgres.Connection,
    generation: domain.Generation,
    *,
    usage: pricing.Quantities,
    amount_nanos: int,
    free_reason: str,
) -> None:
    """Add the billing outcome of a generation that has just finished; an empty `free_reason` means it is charged."""
    outcome = metering_service_pb2.Outcome(
        generation_id=generation.generation_id,
        tenant_id=generation.tenant_id,
        model=generation.model,
        price_version_id=generation.price_version_id,
        usage=money_pb2.Usage(
            gpu_time_us=usage.gpu_time_us,
            steps=usage.steps,
            images=usage.images,
            pixels=usage.pixels,
            media_duration_us=usage.media_duration_us,
            training_steps=usage.training_steps,
            cached_steps=usage.cached_steps,
        ),
        estimate=money_pb2.Money(currency=generation.currency, nanos=generation.estimate_nanos),
        free_reason=free_reason,
        tags=generation.tags,
        amount=money_pb2.Money(currency=generation.currency, nanos=amount_nanos),
        quality=_quality(generation),
    )
    assert generation.finished_at is not None, "it has just finished"
    outcome.finished_at.FromDatetime(generation.finished_at)
    await add(connection, kind="OUTCOME", subject_id=generation.generation_id, payload=outcome.SerializeToString())


def _quality(generation: domain.Generation) -> "media_pb2.QualityTier.ValueType":
    """The tier of its outputs, which are all made alike."""
    told = [media_pb2.QualityTier.Value(one["quality"]) for one in generation.artifacts if "quality" in one]
    return max(told, default=media_pb2.QUALITY_TIER_UNSPECIFIED)


async def add(connection: postgres.Connection, *, kind: str, subject_id: str, payload: bytes) -> None:
    """Add one message; a second one of the same subject is a fault and fails the transaction."""
    await connection.execute(
        "INSERT INTO outbox (kind, subject_id, payload) VALUES ($1, $2, $3)", kind, subject_id, payload
    )


class Outbox:
    """The relay's side."""

    def __init__(self, database: postgres.Database) -> None:
        self._database = database

    async def claim(self, *, limit: int) -> list[Entry]:
        """Take the oldest that are due; they come up again after the claim lapses."""
        rows = await self._database.fetch(
            "UPDATE outbox SET attempts = attempts + 1, next_try_at = clock_timestamp() + $2 * interval '1 second'"
            " WHERE outbox_id IN (SELECT outbox_id FROM outbox WHERE delivered_at IS NULL AND refusal IS NULL"
            " AND next_try_at <= clock_timestamp() ORDER BY outbox_id LIMIT $1 FOR UPDATE SKIP LOCKED)"
            " RETURNING outbox_id, kind, subject_id, payload, attempts",
            limit,
            CLAIM_S,
        )
        return sorted(Entry(*row) for row in rows)

    async def delivered(self, outbox_ids: Sequence[int]) -> None:
        """Mark messages as taken by the meter."""
        await self._database.execute(
            "UPDATE outbox SET delivered_at = clock_timestamp() WHERE outbox_id = ANY($1::bigint[])", list(outbox_ids)
        )

    async def refused(self, outbox_id: int, *, reason: str) -> None:
        """Keep a message that the meter will never take, with the reason, for an operator."""
        await self._database.execute("UPDATE outbox SET refusal = $2 WHERE outbox_id = $1", outbox_id, reason)

    async def postpone(self, outbox_ids: Sequence[int], *, delay_s: float) -> None:
        """Let messages that could not be delivered come up again after `delay_s`."""
        await self._database.execute(
            "UPDATE outbox SET next_try_at = clock_timestamp() + $2 * interval '1 second'"
            " WHERE outbox_id = ANY($1::bigint[])",
            list(outbox_ids),
            delay_s,
        )

    async def sweep(self, *, older_than_s: float) -> int:
        """Delete what was delivered that long ago; how many rows went."""
        tag = await self._database.execute(
            "DELETE FROM outbox WHERE delivered_at < statement_timestamp() - $1 * interval '1 second'", older_than_s
        )
        return int(tag.split()[1])
