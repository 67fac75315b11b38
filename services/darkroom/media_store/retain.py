"""How long things hold: media by their retention, signed URLs by their expiry.

A duration from a request comes in (None if the field is unset); seconds go out, or InvalidArgument on its field. `store` counts media's
retention on the database's clock; `sign` counts URLs' on the wall clock.
"""

from typing import Protocol

from darkroom import errors

RETENTION_S_MIN = 60.0
RETENTION_S_MAX = 10 * 366 * 86_400.0
URL_S_MIN = 1.0
URL_S_MAX = 7 * 86_400.0
URL_S_DEFAULT = 3600.0


class Duration(Protocol):
    """What google.protobuf.Duration has."""

    @property
    def seconds(self) -> int:
        """Whole seconds."""
        ...

    @property
    def nanos(self) -> int:
        """The rest, with the same sign."""
        ...


def media_s(retention: Duration | None, *, default_s: float) -> float | None:
    """How long to keep a piece of media, seconds; None means for ever (the default when `default_s` is 0)."""
    if retention is None:
        return default_s or None
    return _seconds(
        "header.retention", retention, low=RETENTION_S_MIN, high=RETENTION_S_MAX, words="1 minute to 10 years"
    )


def url_s(expires_in: Duration | None) -> float:
    """How long a signed URL holds, seconds."""
    if expires_in is None:
        return URL_S_DEFAULT
    return _seconds("expires_in", expires_in, low=URL_S_MIN, high=URL_S_MAX, words="1 second to 7 days")


def _seconds(field: str, duration: Duration, *, low: float, high: float, words: str) -> float:
    seconds = duration.seconds + duration.nanos / 1e9
    if not (0 <= duration.nanos < 10**9 and low <= seconds <= high):
        raise errors.InvalidArgument.of(field, f"must be {words}")
    return seconds
