"""How much money to ask for, ahead of need.

What a tenant needs now, what is left and what it used lately come in; the amount to ask for goes out. Enough that a busy tenant
rarely waits for a grant, little enough that an idle one's money is not held.
"""

LOOKAHEAD_S = 10.0


def target_nanos(*, used_lately_nanos: int, nanos_min: int, nanos_max: int) -> int:
    """What the lease should hold: twice what the last LOOKAHEAD_S seconds took, within bounds."""
    return max(nanos_min, min(2 * used_lately_nanos, nanos_max))


def is_low(*, remaining_nanos: int, target_nanos: int) -> bool:
    """Whether to ask before anybody has to wait."""
    return 2 * remaining_nanos < target_nanos


def decayed(nanos: float, *, age_s: float) -> float:
    """What is left of an amount used `age_s` seconds ago in the sum of the last LOOKAHEAD_S seconds (a linear window)."""
    return nanos * max(0.0, 1.0 - age_s / LOOKAHEAD_S)
