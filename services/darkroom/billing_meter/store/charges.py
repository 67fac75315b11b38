"""Recorded outcomes, read back.

Generation ids come in; charges go out, free outcomes among them.
"""

import decimal
from collections.abc import Sequence
from typing import NamedTuple

from darkroom import errors, money, postgres, pricing
from darkroom.billing_meter import domain

USAGE = ("gpu_time_us", "steps", "images", "pixels", "media_duration_us", "training_steps", "cached_steps")

_SELECT = f"""
SELECT generation_id, txn_id, model, {", ".join(USAGE)}, lines, amount_nanos, currency, free_reason, price_version_id, recorded_at,
    tags, quality, payload_sha256
FROM usage_event LEFT JOIN charge USING (generation_id)
"""


class Stored(NamedTuple):
    """A recorded outcome and the digest of what was sent."""

    charge: domain.Charge
    payload_sha256: bytes


async def get(database: postgres.Database, *, tenant_id: str, generation_id: str) -> domain.Charge:
    """Read one outcome of a tenant; NotFound if nothing is recorded, alike for another tenant's."""
    row = await database.fetchrow(
        f"{_SELECT} WHERE generation_id = $1 AND usage_event.tenant_id = $2", generation_id, tenant_id
    )
    if row is None:
        raise errors.NotFound("charge", generation_id)
    return _charge(row)


async def by_generations(database: postgres.Database, generation_ids: Sequence[str]) -> dict[str, Stored]:
    """Read outcomes of any tenant by generation; those not recorded are left out."""
    rows = await database.fetch(f"{_SELECT} WHERE generation_id = ANY($1)", generation_ids)
    return {row["generation_id"]: Stored(_charge(row), row["payload_sha256"]) for row in rows}


def _charge(row: postgres.Row) -> domain.Charge:
    return domain.Charge(
        generation_id=row["generation_id"],
        transaction_id=row["txn_id"] or "",
        model=row["model"],
        usage=pricing.Quantities(**{name: row[name] for name in USAGE}),
        lines=[
            pricing.PriceLine(**{**line, "quantity": decimal.Decimal(line["quantity"])}) for line in row["lines"] or ()
        ],
        amount=money.Money(row["amount_nanos"] or 0, row["currency"]),
        free_reason=row["free_reason"],
        price_version_id=row["price_version_id"],
        posted_at=row["recorded_at"],
        tags=row["tags"],
        quality=row["quality"],
    )
