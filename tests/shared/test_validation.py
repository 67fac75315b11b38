"""Every check names its field, says what it must be, and never repeats the value."""

import math

import pytest

from darkroom import errors, ids, validation


def _violations(check, *args, **named):
    found = validation.Violations()
    getattr(found, check)("field", *args, **named)
    try:
        found.raise_if_any()
    except errors.InvalidArgument as error:
        return error.violations
    return ()


GOOD = [
    ("text", ["a red circle\n\tleft of ä 🟥"], {"bytes_max": 100}),
    ("text", [""], {"bytes_max": 1}),
    ("text", ["ää"], {"bytes_max": 4, "required": True}),
    ("name", ["pocket-image"], {}),
    ("name", ["a" * 64], {}),
    ("identifier", [ids.new("gen"), "gen"], {}),
    ("identifier", ["", "gen"], {"required": False}),
    ("idempotency_key", ["k" * 255], {}),
    ("integer", [128], {"low": 64, "high": 128, "multiple_of": 16}),
    ("finite", [1.0], {"low": 1.0, "high": 20.0}),
    ("choice", [2], {"allowed": {1, 2}}),
    ("check", [True], {}),
]
BAD = [
    ("text", [""], {"bytes_max": 10, "required": True}),
    ("text", ["ää"], {"bytes_max": 3}),
    ("text", ["x" * 10**6], {"bytes_max": 2000}),
    ("text", ["a\0b"], {"bytes_max": 10}),
    ("text", ["\x1b[31m"], {"bytes_max": 10}),
    ("text", ["a\x85b"], {"bytes_max": 10}),
    ("text", ["\u202etxet"], {"bytes_max": 100}),
    ("text", ["\ud800"], {"bytes_max": 10}),
    ("name", [""], {}),
    ("name", ["../etc"], {}),
    ("name", ["Flux"], {}),
    ("name", ["ﬂux"], {}),
    ("name", ["a\n"], {}),
    ("name", ["a" * 65], {}),
    ("identifier", ["", "gen"], {}),
    ("identifier", [ids.new("ten"), "gen"], {"required": False}),
    ("idempotency_key", [""], {}),
    ("idempotency_key", ["k" * 256], {}),
    ("idempotency_key", ["a\nb"], {}),
    ("idempotency_key", ["ä"], {}),
    ("integer", [63], {"low": 64, "high": 128}),
    ("integer", [2**31], {"low": 64, "high": 128}),
    ("integer", [65], {"low": 64, "high": 128, "multiple_of": 16}),
    ("finite", [math.nan], {"low": 0, "high": 1}),
    ("finite", [math.inf], {"low": 0, "high": math.inf}),
    ("finite", [-0.1], {"low": 0, "high": 1}),
    ("choice", [0], {"allowed": {1, 2}}),
    ("choice", [99], {"allowed": {1, 2}}),
]


@pytest.mark.parametrize(("check", "args", "named"), GOOD)
def test_good_values_pass(check, args, named):
    extra = ["is bad"] if check == "check" else []
    if check == "check":
        found = validation.Violations()
        found.check(True, "field", *extra)
        found.raise_if_any()
    else:
        assert _violations(check, *args, **named) == ()


@pytest.mark.parametrize(("check", "args", "named"), BAD)
def test_bad_values_name_the_field_and_are_not_repeated(check, args, named):
    (violation,) = _violations(check, *args, **named)
    assert violation.field == "field"
    value = args[0]
    assert not isinstance(value, str) or len(value) < 3 or value not in violation.description


def test_all_violations_are_told_at_once():
    found = validation.Violations()
    found.integer("a", 5, low=0, high=1)
    found.check(False, "b", "is wrong")
    found.add("c", "is missing")
    with pytest.raises(errors.InvalidArgument) as caught:
        found.raise_if_any()
    assert [violation.field for violation in caught.value.violations] == ["a", "b", "c"]
