import math
from typing import Any

import pytest
from google.protobuf import struct_pb2

from darkroom import errors, validation
from darkroom.scheduler import extras

SCHEMA = {
    "properties": {
        "sharpness": {"type": "number", "minimum": 0, "maximum": 1},
        "camera": {"type": "object", "properties": {"lens": {"enum": ["wide", "tele"]}}, "additionalProperties": False},
    },
}


def struct(**values: Any) -> struct_pb2.Struct:
    made = struct_pb2.Struct()
    made.update(values)
    return made


def fields_of(given: struct_pb2.Struct, schema: dict[str, Any] = SCHEMA) -> list[str]:
    found = validation.Violations()
    extras.check(found, "image.extras", given, schema)
    try:
        found.raise_if_any()
    except errors.InvalidArgument as refusal:
        return sorted(violation.field for violation in refusal.violations)
    return []


def test_what_the_schema_allows_is_accepted() -> None:
    assert fields_of(struct()) == []
    assert fields_of(struct(sharpness=0.5, camera={"lens": "wide"})) == []
    assert fields_of(struct(), {}) == []


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (struct(sharpness=2), "image.extras.sharpness"),
        (struct(sharpness="much"), "image.extras.sharpness"),
        (struct(camera={"lens": "fish"}), "image.extras.camera.lens"),
        (struct(camera={"lenses": 2}), "image.extras.camera.lenses"),
        (struct(colour=1), "image.extras.colour"),
        (struct(**{"a\x1b[2J": 1}), "image.extras"),
        (struct(sharpness=math.nan), "image.extras"),
        (struct(sharpness=math.inf), "image.extras"),
        (struct(sharpness="x" * 20_000), "image.extras"),
    ],
)
def test_what_it_does_not_is_named(given: struct_pb2.Struct, field: str) -> None:
    assert fields_of(given) == [field]


def test_a_model_without_a_schema_takes_none() -> None:
    assert fields_of(struct(sharpness=0.5, colour=1), {}) == ["image.extras.colour", "image.extras.sharpness"]
