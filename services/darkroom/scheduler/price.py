"""What a finished generation costs.

Its rates (those of its acceptance) and its usage come in; the amount goes out, which the terminal transaction takes from the
spending lease and billing_meter computes again from the same numbers.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from darkroom import catalog, pricing

_RATES = frozenset(field.name for field in dataclasses.fields(pricing.Rates))


def read_rates(stored: Mapping[str, Any]) -> pricing.Rates:
    """Read the rates of a row; one that a later version knows is left out."""
    return pricing.Rates(**{name: value for name, value in stored.items() if name in _RATES})


def charge_nanos(rates: pricing.Rates, usage: pricing.Quantities, *, estimate_nanos: int) -> int:
    """Price the usage in nano-units, never above what was reserved at acceptance."""
    return min(pricing.total(pricing.lines(rates, usage)), estimate_nanos)


def charging(entries: Iterable[catalog.ModelEntry]) -> frozenset[str]:
    """The models whose cancelled work is charged for the steps that it used."""
    return frozenset(entry.name for entry in entries if entry.charge_cancelled == "used_steps")
