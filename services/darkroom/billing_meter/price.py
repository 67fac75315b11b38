"""What an outcome costs.

An outcome and its price version come in; an assessment goes out: the lines to post, or why the outcome is refused. The arithmetic is
`pricing.lines`, the same as the scheduler's estimate; the accepted estimate is a cap, shown as a line of its own.
"""

import decimal
from collections.abc import Sequence
from typing import NamedTuple

from darkroom import pricing
from darkroom.billing_meter import domain


class Assessment(NamedTuple):
    """Lines that add up to the amount, or a refusal such as "AMOUNT_MISMATCH"; a free outcome has neither."""

    lines: Sequence[pricing.PriceLine] = ()
    refusal: str = ""


def assess(outcome: domain.Outcome, version: domain.PriceVersion | None) -> Assessment:
    """Price an outcome again and compare with what the scheduler kept for it."""
    if version is None or version.model != outcome.model:
        return Assessment(refusal="PRICE_NOT_FOUND")
    if {outcome.estimate.currency, outcome.amount.currency} != {version.rates.currency}:
        return Assessment(refusal="CURRENCY_MISMATCH")
    lines = () if outcome.free_reason else capped(version.rates, outcome.usage, most_nanos=outcome.estimate.nanos)
    if pricing.total(lines) != outcome.amount.nanos:
        return Assessment(refusal="AMOUNT_MISMATCH")
    return Assessment(lines=lines)


def capped(rates: pricing.Rates, usage: pricing.Quantities, *, most_nanos: int) -> Sequence[pricing.PriceLine]:
    """Price what was used; a price above `most_nanos` gets one more line, "cap", that brings it down."""
    lines = pricing.lines(rates, usage)
    excess = pricing.total(lines) - most_nanos
    if excess > 0:
        lines.append(pricing.PriceLine("cap", decimal.Decimal(1), -excess, -excess))
    return lines
