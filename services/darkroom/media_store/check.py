"""What callers of media_store may ask, checked before anything is received or read.

Requests' fields come in; nothing goes out, or InvalidArgument that names every bad field. `servicer` calls these first.
"""

import re

from darkroom import validation

_SHA256 = re.compile(r"([0-9a-f]{64})?")


def header(*, sha256: str, size_bytes: int, bytes_max: int) -> None:
    """Check what is about to be put; its retention is checked by `retain`."""
    found = validation.Violations()
    found.check(bool(_SHA256.fullmatch(sha256)), "header.sha256", "must be 64 lower-case hex digits, or empty")
    found.integer("header.size_bytes", size_bytes, low=1, high=bytes_max)
    found.raise_if_any()


def media_id(value: str) -> None:
    """Check an id of media."""
    found = validation.Violations()
    found.identifier("media_id", value, "med")
    found.raise_if_any()


def offset(value: int, *, size_bytes: int) -> None:
    """Check where a read goes on; the end itself is allowed, and reads nothing."""
    found = validation.Violations()
    found.integer("offset_bytes", value, low=0, high=size_bytes)
    found.raise_if_any()
