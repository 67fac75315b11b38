"""Money nouns: what a model costs now, what a tenant may spend, what was asked for it."""

from typing import NamedTuple

from darkroom import pricing


class Price(NamedTuple):
    """A model's price in force."""

    price_version_id: str
    rates: pricing.Rates


class Grant(NamedTuple):
    """Money asked of billing_meter; `grant_id` makes asking again harmless."""

    grant_id: str
    tenant_id: str
    currency: str
    wanted_nanos: int
    least_nanos: int


class Lease(NamedTuple):
    """What a tenant can spend now; the currency is empty if it never had a grant."""

    currency: str
    remaining_nanos: int


NO_LEASE = Lease(currency="", remaining_nanos=0)
