import dataclasses
import datetime
import decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom import money, pricing
from darkroom.billing_meter import domain, price

NOW = datetime.datetime(2026, 11, 20, tzinfo=datetime.UTC)
RATES = pricing.Rates(nanos_per_image=100, nanos_per_megapixel=1_000_000, nanos_per_gpu_second=3)
VERSION = domain.PriceVersion(price_version_id="pri_1", model="m", rates=RATES, effective_from=NOW)


def outcome(nanos: int, **changes: Any) -> domain.Outcome:
    told = domain.Outcome(
        generation_id="gen_1",
        tenant_id="ten_1",
        model="m",
        price_version_id="pri_1",
        usage=pricing.Quantities(gpu_time_us=500_000, images=2, pixels=8192),
        estimate=money.Money(10_000, "USD"),
        amount=money.Money(nanos, "USD"),
        free_reason="",
        finished_at=NOW,
        tags={},
    )
    return dataclasses.replace(told, **changes)


def test_the_price_is_computed_by_hand() -> None:
    assessment = price.assess(outcome(200 + 8192 + 2), VERSION)  # half a second at 3 nanos is 1.5, rounded half up
    assert assessment.refusal == ""
    assert [(line.meter, line.amount_nanos) for line in assessment.lines] == [
        ("image", 200),
        ("megapixel", 8192),
        ("gpu_second", 2),
    ]


def test_seconds_of_media_are_assessed_too() -> None:
    version = dataclasses.replace(VERSION, rates=pricing.Rates(nanos_per_media_second=1_000))
    sound = pricing.Quantities(media_duration_us=2_500_000, gpu_time_us=9)
    assessment = price.assess(outcome(2_500, usage=sound), version)
    assert [(line.meter, line.amount_nanos) for line in assessment.lines] == [("media_second", 2_500)]
    assert price.assess(outcome(2_499, usage=sound), version).refusal == "AMOUNT_MISMATCH"


@pytest.mark.parametrize("gpu_time_us", [500_000, 499_999])
def test_each_line_is_rounded_half_up(gpu_time_us: int) -> None:
    lines = price.capped(RATES, pricing.Quantities(gpu_time_us=gpu_time_us), most_nanos=100)
    assert pricing.total(lines) == (2 if gpu_time_us == 500_000 else 1)


def test_the_accepted_estimate_is_a_cap_and_shows_as_a_line() -> None:
    assessment = price.assess(outcome(5000, estimate=money.Money(5000, "USD")), VERSION)
    assert assessment.lines[-1] == ("cap", decimal.Decimal(1), -3394, -3394)
    assert pricing.total(assessment.lines) == 5000


def test_a_free_outcome_has_no_lines_and_no_amount() -> None:
    assert price.assess(outcome(0, free_reason="FAILED"), VERSION) == ((), "")
    assert price.assess(outcome(1, free_reason="FAILED"), VERSION).refusal == "AMOUNT_MISMATCH"


@pytest.mark.parametrize(
    ("told", "version", "refusal"),
    [
        (outcome(8394), None, "PRICE_NOT_FOUND"),
        (outcome(8394, model="other"), VERSION, "PRICE_NOT_FOUND"),
        (outcome(8393), VERSION, "AMOUNT_MISMATCH"),
        (outcome(8395), VERSION, "AMOUNT_MISMATCH"),
        (outcome(0), VERSION, "AMOUNT_MISMATCH"),
        (outcome(8394, amount=money.Money(8394, "EUR")), VERSION, "CURRENCY_MISMATCH"),
        (outcome(8394, estimate=money.Money(9000, "EUR")), VERSION, "CURRENCY_MISMATCH"),
    ],
)
def test_what_is_refused(told: domain.Outcome, version: domain.PriceVersion | None, refusal: str) -> None:
    assert price.assess(told, version).refusal == refusal


@given(
    rates=st.builds(
        pricing.Rates,
        nanos_per_image=st.integers(0, domain.RATE_NANOS_MAX),
        nanos_per_megapixel=st.integers(0, domain.RATE_NANOS_MAX),
        nanos_per_gpu_second=st.integers(0, domain.RATE_NANOS_MAX),
        nanos_per_media_second=st.integers(0, domain.RATE_NANOS_MAX),
        minimum_nanos=st.integers(0, domain.RATE_NANOS_MAX),
    ),
    used=st.builds(
        pricing.Quantities,
        gpu_time_us=st.integers(0, domain.USAGE_MAX),
        images=st.integers(0, domain.IMAGES_MAX),
        pixels=st.integers(0, domain.USAGE_MAX),
        media_duration_us=st.integers(0, domain.USAGE_MAX),
    ),
    most=st.integers(0, domain.AMOUNT_NANOS_MAX),
)
def test_lines_add_up_below_the_cap_and_fit_into_63_bits(
    rates: pricing.Rates, used: pricing.Quantities, most: int
) -> None:
    lines = price.capped(rates, used, most_nanos=most)
    assert pricing.total(lines) == min(most, pricing.total(pricing.lines(rates, used)))
    assert all(abs(line.amount_nanos) <= money.NANOS_MAX for line in lines)
