"""The manual clock moves when told; the system's goes on and knows its zone."""

import datetime

from darkroom import clock


def test_the_manual_clock_moves_only_when_told():
    manual = clock.Manual()
    start = manual.utc_now()
    assert manual.monotonic_us() == 0
    manual.advance(seconds=1.5)
    assert manual.monotonic_us() == 1_500_000
    assert manual.utc_now() - start == datetime.timedelta(seconds=1.5)


def test_the_system_clock_never_goes_back_and_is_in_utc():
    system: clock.Clock = clock.System()
    readings = [system.monotonic_us() for _ in range(100)]
    assert readings == sorted(readings)
    assert isinstance(readings[0], int)
    assert system.utc_now().tzinfo is datetime.UTC
