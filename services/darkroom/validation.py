"""Checks of what callers send, all at once.

A servicer (or a verb) calls one method per field and then `raise_if_any`; what goes out is one `errors.InvalidArgument`
that names every bad field, or nothing. Descriptions say what the field must be and never repeat its value.
"""

import math
import re
from collections.abc import Collection

from darkroom import errors, ids

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

# C0 (but tab, newline and carriage return), DEL and C1 control characters, lone surrogates, and the bidirectional
# overrides that make a log line read otherwise than it is.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


class Violations:
    """What is wrong with a request so far."""

    def __init__(self) -> None:
        self._found: list[errors.FieldViolation] = []

    def add(self, field: str, description: str) -> None:
        """Record that a field is wrong."""
        self._found.append(errors.FieldViolation(field, description))

    def check(self, condition: bool, field: str, description: str) -> None:
        """Record it unless the condition holds."""
        if not condition:
            self.add(field, description)

    def raise_if_any(self) -> None:
        """Refuse the request with every violation found."""
        if self._found:
            raise errors.InvalidArgument(self._found)

    def text(self, field: str, value: str, *, bytes_max: int, required: bool = False) -> None:
        """Check a text: at most so many bytes of UTF-8, no control characters (tab and line ends are allowed)."""
        if required and not value:
            self.add(field, "is required")
        elif len(value) > bytes_max or len(value.encode("utf-8", "surrogatepass")) > bytes_max:
            self.add(field, f"must be at most {bytes_max} bytes of UTF-8")
        elif _FORBIDDEN.search(value):
            self.add(field, "must not contain control characters")

    def name(self, field: str, value: str) -> None:
        """Check a name of a model, key or adapter; it may become part of a path."""
        self.check(bool(NAME.fullmatch(value)), field, "must match ^[a-z0-9][a-z0-9._-]{0,63}$")

    def identifier(self, field: str, value: str, prefix: str, *, required: bool = True) -> None:
        """Check an id of one of the house's nouns, such as prefix "gen"."""
        if not value and not required:
            return
        try:
            ids.check(value, prefix)
        except ValueError as error:
            self.add(field, str(error))

    def idempotency_key(self, field: str, value: str) -> None:
        """Check 1 to 255 printable ASCII characters."""
        good = 1 <= len(value) <= 255 and value.isascii() and value.isprintable()
        self.check(good, field, "must be 1 to 255 printable ASCII characters")

    def integer(self, field: str, value: int, *, low: int, high: int, multiple_of: int = 1) -> None:
        """Check an integer's range (both ends allowed) and divisor."""
        if not low <= value <= high:
            self.add(field, f"must be from {low} to {high}")
        elif value % multiple_of:
            self.add(field, f"must be a multiple of {multiple_of}")

    def finite(self, field: str, value: float, *, low: float, high: float) -> None:
        """Check a float's range (both ends allowed); NaN and infinities are refused."""
        self.check(math.isfinite(value) and low <= value <= high, field, f"must be a number from {low:g} to {high:g}")

    def choice(self, field: str, value: int, allowed: Collection[int]) -> None:
        """Check a proto enum: unknown numbers and, unless it is in `allowed`, 0 (unspecified) are refused."""
        self.check(value in allowed, field, "must be one of the values of its enum")
