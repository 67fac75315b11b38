"""A model's own parameters against its JSON Schema.

A Struct from a caller and the schema of the catalogue entry come in; violations that name the parameter go out, without its value.
Unknown keys are refused unless the schema itself allows them.
"""

from collections.abc import Mapping
from typing import Any

import jsonschema
from google.protobuf import json_format, struct_pb2

from darkroom import validation

BYTES_MAX = 16_384


def check(found: validation.Violations, field: str, extras: struct_pb2.Struct, schema: Mapping[str, Any]) -> None:
    """Add what is wrong with the extras."""
    if extras.ByteSize() > BYTES_MAX:
        found.add(field, f"must be at most {BYTES_MAX} bytes")
        return
    try:
        values = json_format.MessageToDict(extras)
    except (json_format.Error, ValueError):  # the library's own, and what it raises for NaN and infinities
        found.add(field, "must hold only finite numbers and complete values")
        return
    validator = jsonschema.Draft202012Validator({"type": "object", "additionalProperties": False, **schema})
    for error in validator.iter_errors(values):
        path = ".".join([field, *map(str, error.absolute_path)])
        if error.validator == "additionalProperties":
            for name in sorted(set(error.instance) - set(error.schema.get("properties", {}))):
                found.add(f"{path}.{name[:64]}" if name.isidentifier() else path, "is not a parameter of this model")
        else:
            found.add(path, f"must satisfy {error.validator} {error.validator_value!r} of the model's extras_schema")
