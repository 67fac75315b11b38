"""The meter's nouns as protos.

What the store returned comes in; messages go out.
"""

import dataclasses
import datetime

from google.protobuf import timestamp_pb2

from darkroom import pricing
from darkroom.api.billing_meter.v1 import account_service_pb2, billing_service_pb2
from darkroom.api.types.v1 import media_pb2, money_pb2
from darkroom.billing_meter import domain


def timestamp(instant: datetime.datetime | None) -> timestamp_pb2.Timestamp | None:
    """An instant; None stays unset."""
    if instant is None:
        return None
    result = timestamp_pb2.Timestamp()
    result.FromDatetime(instant)
    return result


def tenant(noun: domain.Tenant) -> account_service_pb2.Tenant:
    """A tenant with its balance."""
    return account_service_pb2.Tenant(
        tenant_id=noun.tenant_id,
        name=noun.name,
        balance=money_pb2.Money(currency=noun.currency, nanos=noun.balance.total_nanos),
        held=money_pb2.Money(currency=noun.currency, nanos=noun.balance.held_nanos),
        created_at=timestamp(noun.created_at),
    )


def key(noun: domain.Key) -> account_service_pb2.Key:
    """A key without its secret."""
    return account_service_pb2.Key(
        key_id=noun.key_id,
        tenant_id=noun.tenant_id,
        name=noun.name,
        prefix=noun.prefix,
        scopes=noun.scopes,
        created_at=timestamp(noun.created_at),
        expires_at=timestamp(noun.expires_at),
        revoked_at=timestamp(noun.revoked_at),
    )


def price_version(noun: domain.PriceVersion) -> billing_service_pb2.PriceVersion:
    """A price version."""
    return billing_service_pb2.PriceVersion(
        price_version_id=noun.price_version_id,
        model=noun.model,
        effective_from=timestamp(noun.effective_from),
        **dataclasses.asdict(noun.rates),
    )


def usage(noun: pricing.Quantities) -> money_pb2.Usage:
    """What was used."""
    return money_pb2.Usage(**dataclasses.asdict(noun))


def charge(noun: domain.Charge) -> billing_service_pb2.Charge:
    """A recorded outcome: charged or free."""
    free = bool(noun.free_reason)
    return billing_service_pb2.Charge(
        generation_id=noun.generation_id,
        state=billing_service_pb2.CHARGE_STATE_FREE if free else billing_service_pb2.CHARGE_STATE_POSTED,
        transaction_id=noun.transaction_id,
        model=noun.model,
        usage=usage(noun.usage),
        lines=[_line(line) for line in noun.lines],
        amount=money_pb2.Money(currency=noun.amount.currency, nanos=noun.amount.nanos),
        free_reason=noun.free_reason,
        price_version_id=noun.price_version_id,
        posted_at=timestamp(noun.posted_at),
        tags=noun.tags,
        quality=media_pb2.QualityTier.Value(f"QUALITY_TIER_{noun.quality or 'UNSPECIFIED'}"),
    )


def usage_row(noun: domain.UsageRow, *, currency: str) -> billing_service_pb2.UsageRow:
    """One row of a report."""
    return billing_service_pb2.UsageRow(
        model=noun.model,
        day=noun.day,
        generations=noun.generations,
        usage=usage(noun.usage),
        amount=money_pb2.Money(currency=currency, nanos=noun.amount_nanos),
        free_generations=noun.free_generations,
    )


def _line(noun: pricing.PriceLine) -> money_pb2.PriceLine:
    return money_pb2.PriceLine(
        meter=noun.meter,
        quantity=f"{noun.quantity:f}",
        unit_price_nanos=noun.unit_price_nanos,
        amount_nanos=noun.amount_nanos,
    )
