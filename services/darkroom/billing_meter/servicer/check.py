"""Checks and readings of what requests have in common: money, instants, usage, page sizes.

A field's path and its message come in; a plain value goes out, and what is wrong is added to the request's violations (the value is
then of no use: the servicer raises before it uses it).
"""

import dataclasses
import datetime
import re

from google.protobuf import timestamp_pb2

from darkroom import money, pricing, validation
from darkroom.api.types.v1 import media_pb2, money_pb2
from darkroom.billing_meter import domain

PAGE_SIZE = 50
PAGE_SIZE_MAX = 200

_CURRENCY = re.compile(r"[A-Z]{3}")
_SECONDS_MAX = 253_402_300_799  # the end of the year 9999
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_USAGE_MAX = {"images": domain.IMAGES_MAX}


def page_size(violations: validation.Violations, value: int) -> int:
    """Read a page size, 0 meaning the default."""
    violations.integer("page_size", value, low=0, high=PAGE_SIZE_MAX)
    return value or PAGE_SIZE


def currency(violations: validation.Violations, field: str, value: str) -> None:
    """Check an ISO 4217 code."""
    violations.check(bool(_CURRENCY.fullmatch(value)), field, "must be three capital letters, such as USD")


def amount(violations: validation.Violations, field: str, value: money_pb2.Money, *, low: int = 1) -> money.Money:
    """Read an amount of at least `low` nano-units."""
    currency(violations, f"{field}.currency", value.currency)
    violations.integer(f"{field}.nanos", value.nanos, low=low, high=domain.AMOUNT_NANOS_MAX)
    return money.Money(value.nanos, value.currency)


def instant(violations: validation.Violations, field: str, value: timestamp_pb2.Timestamp) -> datetime.datetime:
    """Read an instant from 1970 to 9999, to the microsecond."""
    if not (0 <= value.seconds <= _SECONDS_MAX and 0 <= value.nanos < money.NANOS):
        violations.add(field, "must be an instant from 1970 to 9999")
        return _EPOCH
    return _EPOCH + datetime.timedelta(seconds=value.seconds, microseconds=value.nanos // 1000)


def usage(violations: validation.Violations, field: str, value: money_pb2.Usage) -> pricing.Quantities:
    """Read what a generation used."""
    used = {each.name: int(getattr(value, each.name)) for each in dataclasses.fields(pricing.Quantities)}
    for name, quantity in used.items():
        violations.integer(f"{field}.{name}", quantity, low=0, high=_USAGE_MAX.get(name, domain.USAGE_MAX))
    return pricing.Quantities(**{name: max(0, quantity) for name, quantity in used.items()})


def quality(violations: validation.Violations, field: str, value: int) -> str:
    """Read a tier by its name; empty if it is not told."""
    told = media_pb2.QualityTier.DESCRIPTOR.values_by_number
    violations.choice(field, value, told)
    return told[value].name.removeprefix("QUALITY_TIER_") if value in told and value else ""
