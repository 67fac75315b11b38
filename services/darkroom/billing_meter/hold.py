"""How much of a spending lease can be granted.

The balance and the wish come in; the amount to hold goes out. The scheduler asks ahead of need, so part of a wish is of use.
"""

from darkroom import errors
from darkroom.billing_meter import domain


def decide(balance: domain.Balance, *, wanted_nanos: int, least_nanos: int) -> int:
    """Grant what is wanted or all there is; FailedPrecondition INSUFFICIENT_FUNDS if that is below `least_nanos`."""
    granted_nanos = min(wanted_nanos, balance.available_nanos)
    if granted_nanos < least_nanos:
        raise errors.FailedPrecondition("INSUFFICIENT_FUNDS", "the tenant's balance does not cover this; add credit")
    return granted_nanos
