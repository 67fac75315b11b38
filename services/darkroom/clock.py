"""The machine's two clocks.

Intervals and GPU time are read from the monotonic clock in integer microseconds; the wall clock only labels records for people. Leases
are on neither: they use the database's clock.
"""

import datetime
import time


def monotonic_us() -> int:
    """Microseconds of the machine's monotonic clock."""
    return time.monotonic_ns() // 1_000


def utc_now() -> datetime.datetime:
    """The machine's wall clock, with the UTC time zone."""
    return datetime.datetime.now(datetime.UTC)
