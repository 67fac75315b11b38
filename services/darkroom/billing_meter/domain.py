"""The meter's nouns.

Servicers make them from requests, verbs decide on them, the store keeps them. Money is in integer nano-units, times are UTC.
"""

import dataclasses
import datetime
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from darkroom import money, pricing

TENANT_SCOPES = frozenset(
    {
        *("generations.read", "generations.write", "models.read", "loras.read", "loras.write"),
        *("media.read", "media.write", "billing.read"),
    }
)
OPERATOR_SCOPE = "operator"
API_KEY = re.compile(r"(dk_[0-9a-f]{12})_[0-9a-f]{64}")
PLATFORM_TENANT_ID = "ten_" + "0" * 32
RATE_NANOS_MAX = 10**12  # with USAGE_MAX, no price can overflow 63 bits
USAGE_MAX = 10**12
IMAGES_MAX = 10**6
AMOUNT_NANOS_MAX = 10**17
BALANCE_NANOS_MAX = 10**18


class Account(StrEnum):
    """Where money lies: three accounts of each tenant, two of the platform."""

    AVAILABLE = "AVAILABLE"
    HELD = "HELD"
    RECEIVABLE = "RECEIVABLE"
    REVENUE = "REVENUE"
    CREDIT = "CREDIT"


class Kind(StrEnum):
    """What moved money."""

    CREDIT = "CREDIT"
    GRANT = "GRANT"
    RELEASE = "RELEASE"
    CHARGE = "CHARGE"


class Balance(NamedTuple):
    """A tenant's money: free to hold, held for work under way, and what it owes (never above zero)."""

    available_nanos: int = 0
    held_nanos: int = 0
    receivable_nanos: int = 0

    @property
    def total_nanos(self) -> int:
        """Credit less charges."""
        return sum(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tenant:
    """Who pays; all its money is in one currency."""

    tenant_id: str
    name: str
    currency: str
    created_at: datetime.datetime
    balance: Balance


@dataclasses.dataclass(frozen=True, kw_only=True)
class Key:
    """An API key without its secret."""

    key_id: str
    tenant_id: str
    name: str
    prefix: str
    scopes: tuple[str, ...]
    created_at: datetime.datetime
    expires_at: datetime.datetime | None
    revoked_at: datetime.datetime | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PriceVersion:
    """A model's rates from an instant on, until its next version's."""

    price_version_id: str
    model: str
    rates: pricing.Rates
    effective_from: datetime.datetime


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished generation as the scheduler tells it; an empty `free_reason` means charged."""

    generation_id: str
    tenant_id: str
    model: str
    price_version_id: str
    usage: pricing.Quantities
    estimate: money.Money
    amount: money.Money
    free_reason: str
    finished_at: datetime.datetime
    tags: Mapping[str, str]
    quality: str = ""  # the tier that it was made in; empty if nothing was made


@dataclasses.dataclass(frozen=True, kw_only=True)
class Charge:
    """A recorded outcome; `transaction_id` is empty for a free one."""

    generation_id: str
    transaction_id: str
    model: str
    usage: pricing.Quantities
    lines: Sequence[pricing.PriceLine]
    amount: money.Money
    free_reason: str
    price_version_id: str
    posted_at: datetime.datetime
    tags: Mapping[str, str]
    quality: str = ""


class Recorded(NamedTuple):
    """What came of an outcome: its charge, or why there is none."""

    generation_id: str
    charge: Charge | None
    refusal: str


class UsageRow(NamedTuple):
    """One row of a report; `model` and `day` are empty unless it is grouped by them."""

    model: str
    day: str
    generations: int
    usage: pricing.Quantities
    amount_nanos: int
    free_generations: int


class InvariantResult(NamedTuple):
    """An invariant of the ledger and how many rows break it."""

    name: str
    violations: int
