"""The monotonic clock goes on in whole microseconds; the wall clock knows its zone."""

import datetime

from darkroom import clock


def test_the_monotonic_clock_never_goes_back() -> None:
    readings = [clock.monotonic_us() for _ in range(100)]
    assert readings == sorted(readings)
    assert isinstance(readings[0], int)


def test_the_wall_clock_is_in_utc() -> None:
    assert clock.utc_now().tzinfo is datetime.UTC
