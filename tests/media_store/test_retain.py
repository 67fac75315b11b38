import pytest
from google.protobuf import duration_pb2

from darkroom import errors
from darkroom.media_store import retain

DAY_S = 86_400


def duration(seconds: int, nanos: int = 0) -> duration_pb2.Duration:
    return duration_pb2.Duration(seconds=seconds, nanos=nanos)


def test_what_is_not_said_is_the_default() -> None:
    assert retain.media_s(None, default_s=0) is None
    assert retain.media_s(None, default_s=90.0) == 90.0
    assert retain.url_s(None) == 3600.0


@pytest.mark.parametrize("asked", [duration(60), duration(90, 500_000_000), duration(10 * 365 * DAY_S)])
def test_retentions_from_a_minute_to_ten_years(asked: duration_pb2.Duration) -> None:
    assert retain.media_s(asked, default_s=0) == asked.seconds + asked.nanos / 1e9


@pytest.mark.parametrize(
    "asked",
    [
        duration(0),
        duration(-60),
        duration(59, 999_999_999),
        duration(11 * 366 * DAY_S),
        duration(2**62),
        duration(60, -1),
        duration(60, 10**9),
    ],
)
def test_other_retentions_are_refused_by_field(asked: duration_pb2.Duration) -> None:
    with pytest.raises(errors.InvalidArgument) as refusal:
        retain.media_s(asked, default_s=0)
    assert [violation.field for violation in refusal.value.violations] == ["header.retention"]


def test_urls_hold_from_a_second_to_a_week() -> None:
    assert retain.url_s(duration(1)) == 1.0
    assert retain.url_s(duration(7 * DAY_S)) == 7.0 * DAY_S
    for bad in (duration(0), duration(0, 999_999_999), duration(7 * DAY_S, 1), duration(-1)):
        with pytest.raises(errors.InvalidArgument) as refusal:
            retain.url_s(bad)
        assert [violation.field for violation in refusal.value.violations] == ["expires_in"]
