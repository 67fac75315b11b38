"""Money as text and back.

Inside the house money is always (nano-units: int, ISO currency): 1 USD = 10^9 nanos, and no float ever touches it. This
module turns that into what people read, and reads what operators type; `pricing` does the arithmetic.
"""

import re
from typing import NamedTuple

NANOS = 10**9
NANOS_MAX = 2**63 - 1  # what a PostgreSQL bigint and a protobuf int64 hold

_CURRENCY = re.compile(r"[A-Z]{3}")
_AMOUNT = re.compile(r"(-?)([0-9]{1,10})(?:\.([0-9]{1,9}))?")


class Money(NamedTuple):
    """An amount in nano-units of a currency."""

    nanos: int
    currency: str


def format_nanos(nanos: int, currency: str) -> str:
    """Write an amount exactly, with at least two decimals: "0.001234 USD", "3.00 USD", "-0.50 EUR"."""
    whole, fraction = divmod(abs(nanos), NANOS)
    decimals = f"{fraction:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if nanos < 0 else ''}{whole}.{decimals} {currency}"


def parse(text: str, *, currency: str = "USD") -> Money:
    """Read "12.5" or "12.5 EUR" exactly; `currency` is for text without one. ValueError says what is wrong."""
    amount, _, stated = text.strip().partition(" ")
    match = _AMOUNT.fullmatch(amount)
    if not match:
        raise ValueError("an amount of money is digits with at most 9 decimals, such as 12.50 or 12.50 USD")
    unit = stated.strip() or currency
    if not _CURRENCY.fullmatch(unit):
        raise ValueError("a currency is three capital letters, such as USD")
    sign, whole, fraction = match.groups()
    nanos = int(whole) * NANOS + int((fraction or "").ljust(9, "0"))
    if nanos > NANOS_MAX:
        raise ValueError("an amount of money is at most 9,223,372,036")
    return Money(nanos=-nanos if sign else nanos, currency=unit)
