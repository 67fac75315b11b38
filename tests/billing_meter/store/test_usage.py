import datetime
from typing import Any

import pytest

from darkroom import errors, pricing
from darkroom.api.types.v1 import money_pb2
from darkroom.billing_meter import domain, report
from darkroom.billing_meter.store import prices, usage
from tests.billing_meter.harness import Meter

NEW_YEAR = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
MICROSECOND = datetime.timedelta(microseconds=1)
COST = 750_108_192


@pytest.fixture
async def tenant_id(meter: Meter) -> str:
    """A tenant that used two models around a new year, one generation of them free."""
    tenant_id = await meter.tenant()
    await prices.seed(meter.database, {"another": pricing.Rates(nanos_per_image=7)})
    another = next(each for each in await prices.in_force(meter.database) if each.model == "another")
    for at, changes in (
        (NEW_YEAR - MICROSECOND, {}),
        (NEW_YEAR, {}),
        (NEW_YEAR + DAY / 2, {"free_reason": "FAILED"}),
        (NEW_YEAR + DAY - MICROSECOND, {"model": "another", "price_version_id": another.price_version_id}),
        (NEW_YEAR + DAY, {}),
    ):
        outcome = await meter.outcome(tenant_id, **changes)
        outcome.finished_at.FromDatetime(at)
        if "model" in changes:
            outcome.amount.nanos = 7
        (recorded,) = await meter.record(outcome)
        assert recorded.refusal == ""
    await meter.record(await meter.outcome(await meter.tenant()))
    return tenant_id


async def rows(meter: Meter, tenant_id: str, start: datetime.datetime, end: datetime.datetime, **groups: bool) -> Any:
    by = {"by_model": False, "by_day": False, **groups}
    return await usage.rows(meter.database, tenant_id=tenant_id, start=start, end=end, **by)


def shape(rows: list[domain.UsageRow]) -> list[tuple[str, str, int, int, int]]:
    return [(row.day, row.model, row.generations, row.amount_nanos, row.free_generations) for row in rows]


async def test_a_range_holds_its_start_and_not_its_end(meter: Meter, tenant_id: str) -> None:
    (row,) = await rows(meter, tenant_id, NEW_YEAR, NEW_YEAR + DAY)
    assert shape([row]) == [("", "", 2, COST + 7, 1)]
    assert row.usage == pricing.Quantities(gpu_time_us=3_000_000, steps=56, images=2, pixels=8192)


async def test_days_are_utc_and_models_are_apart(meter: Meter, tenant_id: str) -> None:
    found = await rows(meter, tenant_id, NEW_YEAR - DAY, NEW_YEAR + 2 * DAY, by_model=True, by_day=True)
    assert shape(found) == [
        ("2025-12-31", "pocket-test", 1, COST, 0),
        ("2026-01-01", "another", 1, 7, 0),
        ("2026-01-01", "pocket-test", 1, COST, 1),
        ("2026-01-02", "pocket-test", 1, COST, 0),
    ]


async def test_one_group_alone(meter: Meter, tenant_id: str) -> None:
    by_model = await rows(meter, tenant_id, NEW_YEAR - DAY, NEW_YEAR + 2 * DAY, by_model=True)
    assert shape(by_model) == [("", "another", 1, 7, 0), ("", "pocket-test", 3, 3 * COST, 1)]
    by_day = await rows(meter, tenant_id, NEW_YEAR - DAY, NEW_YEAR + 2 * DAY, by_day=True)
    assert [row.day for row in by_day] == ["2025-12-31", "2026-01-01", "2026-01-02"]
    assert report.total(by_day) == report.total(by_model)


async def test_nothing_used_makes_no_rows(meter: Meter, tenant_id: str) -> None:
    assert await rows(meter, tenant_id, NEW_YEAR + 5 * DAY, NEW_YEAR + 6 * DAY, by_day=True) == []


async def test_usage_of_free_generations_is_not_reported_as_used(meter: Meter) -> None:
    tenant_id = await meter.tenant()
    outcome = await meter.outcome(tenant_id, free_reason="FAILED", usage={"steps": 5})
    await meter.record(outcome)
    at = outcome.finished_at.ToDatetime(tzinfo=datetime.UTC)
    (row,) = await rows(meter, tenant_id, at, at + DAY)
    assert (row.free_generations, row.usage) == (1, pricing.Quantities())
    assert outcome.usage == money_pb2.Usage(gpu_time_us=1_500_000, steps=5, images=1, pixels=4096)


async def test_a_report_of_too_many_rows_is_refused(
    meter: Meter, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "ROWS_MAX", 1)
    with pytest.raises(errors.FailedPrecondition) as refusal:
        await rows(meter, tenant_id, NEW_YEAR - DAY, NEW_YEAR + 2 * DAY, by_day=True)
    assert refusal.value.reason == "REPORT_TOO_LARGE"
