"""Sums of usage.

The rows that `store.usage` grouped come in; their total goes out.
"""

import dataclasses
from collections.abc import Sequence

from darkroom import pricing
from darkroom.billing_meter import domain

ROWS_MAX = 10_000
DAYS_MAX = 400


def total(rows: Sequence[domain.UsageRow]) -> domain.UsageRow:
    """Add rows up; no rows add up to zeros."""
    return domain.UsageRow(
        model="",
        day="",
        generations=sum(row.generations for row in rows),
        usage=_sum([row.usage for row in rows]),
        amount_nanos=sum(row.amount_nanos for row in rows),
        free_generations=sum(row.free_generations for row in rows),
    )


def _sum(usages: Sequence[pricing.Quantities]) -> pricing.Quantities:
    names = [field.name for field in dataclasses.fields(pricing.Quantities)]
    return pricing.Quantities(**{name: sum(getattr(usage, name) for usage in usages) for name in names})
