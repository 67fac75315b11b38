"""Recording outcomes, each exactly once.

Checked outcomes come in; what came of each goes out. One tenant's outcomes are written in one database transaction: usage events,
charges, ledger transactions with their entries, the reduction of what is held, and the balance. The usage event is keyed by the
generation, so a generation that came before writes nothing; afterwards the stored rows are read, and answer first and repeated
calls alike.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

from darkroom import errors, ids, money, postgres, pricing
from darkroom.billing_meter import domain, ledger, price
from darkroom.billing_meter.store import charges, prices
from darkroom.billing_meter.store import ledger as ledger_store

_EVENT_COLUMNS = """generation_id, tenant_id, model, price_version_id, gpu_time_us, steps, images, pixels, media_duration_us,
    training_steps, cached_steps, quality, currency, estimate_nanos, free_reason, finished_at, tags, payload_sha256"""
_INSERT_EVENTS = f"""
INSERT INTO usage_event ({_EVENT_COLUMNS}) SELECT {_EVENT_COLUMNS} FROM jsonb_populate_recordset(NULL::usage_event, $1)
ON CONFLICT DO NOTHING RETURNING generation_id, payload_sha256
"""
_INSERT_CHARGE = """
INSERT INTO charge (charge_id, generation_id, txn_id, tenant_id, amount_nanos, held_nanos, lines)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""


async def record(database: postgres.Database, outcomes: Sequence[domain.Outcome]) -> list[domain.Recorded]:
    """Record what was not recorded before; the result of each outcome, in the order given."""
    versions = await prices.by_ids(database, [outcome.price_version_id for outcome in outcomes])
    assessed = [(each, price.assess(each, versions.get(each.price_version_id))) for each in outcomes]
    refusals = {payload_sha256(outcome): assessment.refusal for outcome, assessment in assessed}
    payable = [(outcome, assessment) for outcome, assessment in assessed if not assessment.refusal]
    for tenant_id in sorted({outcome.tenant_id for outcome, _ in payable}):
        own = {payload_sha256(each[0]): each for each in payable if each[0].tenant_id == tenant_id}
        refusals.update(await _record_tenant(database, tenant_id, own))
    stored = await charges.by_generations(database, [outcome.generation_id for outcome in outcomes])
    return [_result(outcome, stored.get(outcome.generation_id), refusals) for outcome in outcomes]


def payload_sha256(outcome: domain.Outcome) -> bytes:
    """The digest that tells a repeated outcome from another one under the same id."""
    return hashlib.sha256(json.dumps(dataclasses.asdict(outcome), sort_keys=True, default=str).encode()).digest()


async def _record_tenant(
    database: postgres.Database, tenant_id: str, own: Mapping[bytes, tuple[domain.Outcome, price.Assessment]]
) -> dict[bytes, str]:
    """Write one tenant's outcomes, all or none but those refused here; why, by payload."""
    async with database.transaction() as connection:
        try:
            tenant = await ledger_store.lock(connection, tenant_id)
        except errors.NotFound:
            return dict.fromkeys(own, "TENANT_NOT_FOUND")
        foreign = {payload for payload, (outcome, _) in own.items() if _is_foreign(outcome.estimate, tenant)}
        events = [_event(outcome, payload) for payload, (outcome, _) in own.items() if payload not in foreign]
        rows = await connection.fetch(_INSERT_EVENTS, sorted(events, key=lambda event: str(event["generation_id"])))
        new = [own[row["payload_sha256"]] for row in rows]
        await _charge(connection, tenant, [each for each in new if not each[0].free_reason])
    return dict.fromkeys(foreign, "CURRENCY_MISMATCH")


def _is_foreign(estimate: money.Money, tenant: ledger_store.Locked) -> bool:
    """Whether it is money that the tenant's account cannot hold; what cannot cost anything may be priced in any currency."""
    return estimate.nanos > 0 and estimate.currency != tenant.currency


async def _charge(
    connection: postgres.Connection,
    tenant: ledger_store.Locked,
    charged: Iterable[tuple[domain.Outcome, price.Assessment]],
) -> None:
    balance, postings, rows = tenant.balance, [], []
    for outcome, assessment in charged:
        entries = ledger.charge(balance, outcome.amount.nanos)
        balance = ledger.apply(balance, entries)
        posting = ledger_store.posting(domain.Kind.CHARGE, outcome.generation_id, entries)
        postings.append(posting)
        rows.append(_charge_row(outcome, posting, assessment.lines))
    if postings:
        await ledger_store.post(connection, tenant, postings)
        await connection.executemany(_INSERT_CHARGE, rows)


def _charge_row(
    outcome: domain.Outcome, posting: ledger_store.Posting, lines: Sequence[pricing.PriceLine]
) -> tuple[object, ...]:
    held_nanos = -ledger.of(domain.Account.HELD, posting.entries)
    stored = [{**line._asdict(), "quantity": f"{line.quantity:f}"} for line in lines]
    charge_id = ids.new("chg")
    return (
        *(
            charge_id,
            outcome.generation_id,
            posting.txn_id,
            outcome.tenant_id,
            outcome.amount.nanos,
            held_nanos,
            stored,
        ),
    )


def _event(outcome: domain.Outcome, payload: bytes) -> dict[str, object]:
    return {
        **dataclasses.asdict(outcome.usage),
        "generation_id": outcome.generation_id,
        "tenant_id": outcome.tenant_id,
        "model": outcome.model,
        "price_version_id": outcome.price_version_id,
        "currency": outcome.estimate.currency,
        "estimate_nanos": outcome.estimate.nanos,
        "free_reason": outcome.free_reason,
        "finished_at": outcome.finished_at.isoformat(),
        "tags": dict(outcome.tags),
        "quality": outcome.quality,
        "payload_sha256": f"\\x{payload.hex()}",
    }


def _result(outcome: domain.Outcome, stored: charges.Stored | None, refusals: Mapping[bytes, str]) -> domain.Recorded:
    payload = payload_sha256(outcome)
    if stored is None:
        return domain.Recorded(outcome.generation_id, None, refusals[payload])
    if stored.payload_sha256 != payload:
        return domain.Recorded(outcome.generation_id, None, "PAYLOAD_CONFLICT")
    return domain.Recorded(outcome.generation_id, stored.charge, "")
