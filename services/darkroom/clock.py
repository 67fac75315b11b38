"""Time, as something that can be handed in.

Intervals and GPU time are read from a monotonic clock in integer microseconds; the wall clock only labels records for
people (leases use the database's clock). Code whose decisions depend on time takes a `Clock`; tests give it a `Manual`
one.
"""

import datetime
import time
from typing import Protocol


class Clock(Protocol):
    """What a decision that depends on time may ask."""

    def monotonic_us(self) -> int:
        """Microseconds from some fixed moment; never goes back."""
        ...

    def utc_now(self) -> datetime.datetime:
        """The wall clock, with the UTC time zone."""
        ...


class System:
    """The machine's own clocks."""

    def monotonic_us(self) -> int:
        """Microseconds of the machine's monotonic clock."""
        return monotonic_us()

    def utc_now(self) -> datetime.datetime:
        """The machine's wall clock in UTC."""
        return utc_now()


class Manual:
    """A clock that moves only when told to: time as a fixture."""

    def __init__(self, *, start: datetime.datetime = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)) -> None:
        self._start = start
        self._elapsed_us = 0

    def monotonic_us(self) -> int:
        """Microseconds advanced so far."""
        return self._elapsed_us

    def utc_now(self) -> datetime.datetime:
        """The start plus what was advanced."""
        return self._start + datetime.timedelta(microseconds=self._elapsed_us)

    def advance(self, *, seconds: float) -> None:
        """Move both clocks forward."""
        self._elapsed_us += round(seconds * 1_000_000)


def monotonic_us() -> int:
    """Microseconds of the machine's monotonic clock."""
    return time.monotonic_ns() // 1_000


def utc_now() -> datetime.datetime:
    """The machine's wall clock, with the UTC time zone."""
    return datetime.datetime.now(datetime.UTC)
