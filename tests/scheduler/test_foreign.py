import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.scheduler import foreign


def idle(percent, busy_us=0):
    return foreign.Reading(percent, True, 1.0, busy_us)


def working(slowdown, busy_us=0):
    return foreign.Reading(100, False, slowdown, busy_us)


def after(*readings):
    share = foreign.UNKNOWN
    for reading in readings:
        share = foreign.update(share, reading)
    return share.utilization


def test_while_idle_nvml_tells():
    assert after(idle(90)) == 0.9
    assert after(idle(90), idle(10)) == 0.1


def test_right_after_work_nvml_still_shows_our_own():
    assert after(idle(20), working(1.0, 50), idle(100, 60)) == pytest.approx(0.1)  # the reading of 100 does not count
    assert after(idle(20), working(1.0, 50), idle(100, 60), idle(30, 60)) == 0.3


def test_work_between_two_idle_heartbeats_is_noticed():
    assert after(idle(20), idle(100, 60)) == 0.2


def test_while_working_the_slowdown_tells_and_is_smoothed():
    assert after(working(10.0)) == pytest.approx(0.45)
    assert after(*[working(10.0)] * 20) == pytest.approx(0.9, abs=1e-4)
    assert after(working(1.0)) == 0.0


def test_where_nvml_tells_nothing_a_slow_runner_is_tried_again():
    slowed = [working(10.0)] * 20
    assert after(*slowed, idle(None)) == pytest.approx(0.88, abs=0.01)
    assert after(*slowed, *[idle(None)] * 200) < 0.02


@given(
    st.lists(
        st.builds(
            foreign.Reading,
            st.none() | st.integers(-5, 1000),
            st.booleans(),
            st.floats(allow_nan=False, allow_infinity=False),
            st.integers(0, 3),
        )
    )
)
def test_it_is_always_a_share(readings):
    assert 0.0 <= after(*readings) <= 1.0
