"""The small notations of the command line: 64x64, 30s, lora_…:0.8, picture.png, campaign=spring, 2026-11-20, 12.50.

Text comes in; typed values go out, or one sentence that says what the notation is.
"""

import datetime
import json
import pathlib
import re
from typing import Any, ClassVar

import click

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Notation(click.ParamType[Any]):
    """A notation: a regular expression, what it means, and an example for the error."""

    pattern: ClassVar[str]
    example: ClassVar[str]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read one value; click's usage error if it is not in this notation."""
        if not isinstance(value, str):
            return value
        match = re.fullmatch(self.pattern, value)
        if match:
            try:
                return self.read(match)
            except ValueError as error:
                self.fail(f"{value!r}: {error}", param, ctx)
        self.fail(f"{value!r} is not like {self.example}", param, ctx)

    def read(self, match: re.Match[str]) -> Any:
        """Turn the match into the value."""
        raise NotImplementedError


class Size(Notation):
    """WIDTHxHEIGHT in pixels."""

    name = "WxH"
    pattern = r"(\d{1,6})x(\d{1,6})"
    example = "64x64"

    def read(self, match: re.Match[str]) -> tuple[int, int]:
        """(width, height)."""
        return int(match[1]), int(match[2])


class Duration(Notation):
    """A number with ms, s, m, h or d."""

    name = "duration"
    pattern = r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h|d)"
    example = "30s, 500ms or 5m"

    def read(self, match: re.Match[str]) -> datetime.timedelta:
        """A timedelta, which protobuf takes as a Duration."""
        return datetime.timedelta(seconds=float(match[1]) * _UNITS_S[match[2]])


class Lora(Notation):
    """An adapter's id, with a scale after a colon."""

    name = "ID[:SCALE]"
    pattern = r"(lora_[0-9a-f]{32})(?::(-?\d{1,3}(?:\.\d{1,6})?))?"
    example = "lora_0123456789abcdef0123456789abcdef:0.8"

    def read(self, match: re.Match[str]) -> tuple[str, float | None]:
        """(id, scale or None for the default)."""
        return match[1], float(match[2]) if match[2] else None


class Picture(Notation):
    """A file, or the id of something in media_store."""

    name = "FILE|ID"
    pattern = r"(?s:.+)"
    example = "picture.png or med_0123456789abcdef0123456789abcdef"

    def read(self, match: re.Match[str]) -> str | pathlib.Path:
        """The id, or the path of a file that is there."""
        if re.fullmatch(r"med_[0-9a-f]{32}", match[0]):
            return match[0]
        path = pathlib.Path(match[0])
        if not path.is_file():
            raise ValueError(f"is no file, and no id like {self.example.partition(' or ')[2]}")
        return path


class Tag(Notation):
    """A label and its value."""

    name = "KEY=VALUE"
    pattern = r"([^=]+)=(.*)"
    example = "campaign=spring"

    def read(self, match: re.Match[str]) -> tuple[str, Any]:
        """(key, value)."""
        return match[1], match[2]


class Extra(Tag):
    """A parameter of the model's own, its value as JSON where it is JSON."""

    example = "true_cfg_scale=4"

    def read(self, match: re.Match[str]) -> tuple[str, Any]:
        """(key, value); what is not JSON is text."""
        try:
            return match[1], json.loads(match[2])
        except json.JSONDecodeError:
            return match[1], match[2]


class Day(Notation):
    """A UTC day, or an instant."""

    name = "date"
    pattern = r"\d{4}-\d{2}-\d{2}(?:T\d{2}:\d{2}(?::\d{2})?Z?)?"
    example = "2026-11-20 or 2026-11-20T12:00Z"

    def read(self, match: re.Match[str]) -> datetime.datetime:
        """An instant in UTC."""
        return datetime.datetime.fromisoformat(match[0].removesuffix("Z")).replace(tzinfo=datetime.UTC)


class Amount(Notation):
    """An amount of money."""

    name = "amount"
    pattern = r".{1,40}"
    example = "12.50 or 12.50 USD"

    def read(self, match: re.Match[str]) -> Any:
        """A money.Money."""
        from darkroom import money

        return money.parse(match[0])


SIZE, DURATION, LORA, PICTURE, TAG, EXTRA = Size(), Duration(), Lora(), Picture(), Tag(), Extra()
DAY, AMOUNT = Day(), Amount()
