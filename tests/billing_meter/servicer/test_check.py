import datetime

import pytest
from google.protobuf import timestamp_pb2

from darkroom import errors, pricing, validation
from darkroom.api.types.v1 import media_pb2, money_pb2
from darkroom.billing_meter import domain
from darkroom.billing_meter.servicer import check


def fields(violations: validation.Violations) -> list[str]:
    try:
        violations.raise_if_any()
    except errors.InvalidArgument as error:
        return [violation.field for violation in error.violations]
    return []


@pytest.mark.parametrize(
    ("value", "size", "bad"),
    [(0, 50, []), (1, 1, []), (200, 200, []), (201, 201, ["page_size"]), (-1, -1, ["page_size"])],
)
def test_page_size(value: int, size: int, bad: list[str]) -> None:
    violations = validation.Violations()
    assert check.page_size(violations, value) == size
    assert fields(violations) == bad


@pytest.mark.parametrize("code", ["", "usd", "US", "USDX", "US$", "USD\n"])
def test_currencies_are_three_capital_letters(code: str) -> None:
    violations = validation.Violations()
    check.amount(violations, "credit", money_pb2.Money(currency=code, nanos=1))
    assert fields(violations) == ["credit.currency"]


@pytest.mark.parametrize("nanos", [0, -1, domain.AMOUNT_NANOS_MAX + 1])
def test_amounts_have_bounds(nanos: int) -> None:
    violations = validation.Violations()
    check.amount(violations, "credit", money_pb2.Money(currency="USD", nanos=nanos))
    assert fields(violations) == ["credit.nanos"]


@pytest.mark.parametrize(("seconds", "nanos"), [(-1, 0), (253_402_300_800, 0), (0, -1), (0, 10**9)])
def test_instants_that_are_none(seconds: int, nanos: int) -> None:
    violations = validation.Violations()
    check.instant(violations, "from", timestamp_pb2.Timestamp(seconds=seconds, nanos=nanos))
    assert fields(violations) == ["from"]


def test_instants_are_exact_to_the_microsecond() -> None:
    violations = validation.Violations()
    last = check.instant(violations, "to", timestamp_pb2.Timestamp(seconds=253_402_300_799, nanos=999_999_999))
    assert last == datetime.datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=datetime.UTC)
    assert fields(violations) == []


def test_usage_names_every_bad_quantity() -> None:
    violations = validation.Violations()
    check.usage(violations, "usage", money_pb2.Usage(steps=-1, images=domain.IMAGES_MAX + 1, pixels=1))
    assert sorted(fields(violations)) == ["usage.images", "usage.steps"]


def test_usage_reads_all_quantities() -> None:
    used = {"gpu_time_us": 1, "steps": 2, "images": 3, "pixels": 4, "media_duration_us": 5, "training_steps": 6}
    used["cached_steps"] = 1
    violations = validation.Violations()
    assert check.usage(violations, "usage", money_pb2.Usage(**used)) == pricing.Quantities(**used)
    assert fields(violations) == []


def test_a_tier_is_read_by_its_name() -> None:
    violations = validation.Violations()
    read = [check.quality(violations, "quality", value) for value in media_pb2.QualityTier.values()]
    assert read == ["", "LOSSLESS", "HIGH", "DRAFT"]
    assert fields(violations) == []
    assert check.quality(violations, "quality", 9) == ""
    assert fields(violations) == ["quality"]
