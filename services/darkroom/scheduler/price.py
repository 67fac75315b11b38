"""What a finished generation costs.

Its rates (those of its acceptance) and its usage come in; the amount goes out, which the terminal transaction takes from the
spending lease and billing_meter computes again from the same numbers.
"""

from darkroom import pricing


def charge_nanos(rates: pricing.Rates, usage: pricing.Quantities, *, estimate_nanos: int) -> int:
    """Price the usage in nano-units, never above what was reserved at acceptance."""
    return min(pricing.total(pricing.lines(rates, usage)), estimate_nanos)
