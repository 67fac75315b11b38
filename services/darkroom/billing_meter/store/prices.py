"""Versioned prices, append-only.

The catalogue's prices come in at the start, operators' later; the version in force at an instant goes out. A version's range ends
where the model's next one begins.
"""

import dataclasses
import datetime
from collections.abc import Iterable, Mapping

from darkroom import errors, ids, postgres, pricing
from darkroom.billing_meter import domain
from darkroom.billing_meter.store import idempotency

_RATES = ", ".join(field.name for field in dataclasses.fields(pricing.Rates))
_COLUMNS = f"price_version_id, model, {_RATES}, effective_from"
_IN_FORCE = f"""
SELECT DISTINCT ON (model) {_COLUMNS} FROM price_version
WHERE effective_from <= coalesce($1, now()) ORDER BY model, effective_from DESC
"""
_BY_IDS = f"SELECT {_COLUMNS} FROM price_version WHERE price_version_id = ANY($1)"
_EXISTS = "SELECT EXISTS (SELECT FROM price_version WHERE model = $1)"
_INSERT = f"""
INSERT INTO price_version ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, coalesce($9, now()))
ON CONFLICT (model, effective_from) DO NOTHING RETURNING {_COLUMNS}
"""


async def seed(database: postgres.Database, catalogue: Mapping[str, pricing.Rates]) -> None:
    """Give each model that has no price yet its catalogue price, from now on; safe from several processes at once."""
    async with database.transaction() as connection:
        await connection.execute("LOCK TABLE price_version IN SHARE ROW EXCLUSIVE MODE")
        for model, rates in sorted(catalogue.items()):
            if not await connection.fetchval(_EXISTS, model):
                await connection.execute(_INSERT, *_values(ids.new("pri"), model, rates), None)


async def in_force(database: postgres.Database, *, at: datetime.datetime | None = None) -> list[domain.PriceVersion]:
    """Read each model's version in force at an instant, now if none is given."""
    return [_version(row) for row in await database.fetch(_IN_FORCE, at)]


async def by_ids(database: postgres.Database, version_ids: Iterable[str]) -> dict[str, domain.PriceVersion]:
    """Read versions by id; unknown ids are left out."""
    rows = await database.fetch(_BY_IDS, sorted(set(version_ids)))
    return {row["price_version_id"]: _version(row) for row in rows}


async def set_price(
    database: postgres.Database,
    *,
    model: str,
    rates: pricing.Rates,
    effective_from: datetime.datetime | None,
    idempotency_key: str,
) -> domain.PriceVersion:
    """Make a version in force from an instant on, now if none is given.

    NotFound if the model never had a price, InvalidArgument if the instant is past, FailedPrecondition if another version begins then.
    """
    version_id = ids.new("pri")
    async with database.transaction() as connection:
        before = await idempotency.claim(
            connection,
            method="SetPrice",
            idempotency_key=idempotency_key,
            params=(model, rates, effective_from),
            subject_id=version_id,
        )
        if before is None:
            return await _insert(connection, version_id, model, rates, effective_from)
    return (await by_ids(database, [before]))[before]


async def _insert(
    connection: postgres.Connection,
    version_id: str,
    model: str,
    rates: pricing.Rates,
    effective_from: datetime.datetime | None,
) -> domain.PriceVersion:
    if not await connection.fetchval(_EXISTS, model):
        raise errors.NotFound("model", model)
    if effective_from and await connection.fetchval("SELECT $1 < now()", effective_from):
        raise errors.InvalidArgument.of("price.effective_from", "must not be in the past")
    row = await connection.fetchrow(_INSERT, *_values(version_id, model, rates), effective_from)
    if row is None:
        raise errors.FailedPrecondition("PRICE_RANGE_TAKEN", "another price of this model begins at the same instant")
    return _version(row)


def _values(version_id: str, model: str, rates: pricing.Rates) -> tuple[object, ...]:
    return version_id, model, *dataclasses.astuple(rates)


def _version(row: postgres.Row) -> domain.PriceVersion:
    return domain.PriceVersion(
        price_version_id=row["price_version_id"],
        model=row["model"],
        rates=pricing.Rates(**{name: row[name] for name in _RATES.split(", ")}),
        effective_from=row["effective_from"],
    )
