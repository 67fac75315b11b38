"""Prices are exact integers, rounded half up line by line, never below the minimum."""

import dataclasses
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as some

from darkroom import pricing

amounts = some.integers(0, 10**12)
RATES = [field.name for field in dataclasses.fields(pricing.Rates) if field.name != "currency"]


def test_a_price_by_hand():
    rates = pricing.Rates(nanos_per_image=100, nanos_per_megapixel=2_000_000, nanos_per_gpu_second=500_000_000)
    lines = pricing.lines(rates, pricing.Quantities(images=2, pixels=8192, gpu_time_us=1_500_000, steps=56))
    assert lines == [
        ("image", Decimal(2), 100, 200),
        ("megapixel", Decimal("0.008192"), 2_000_000, 16_384),
        ("gpu_second", Decimal("1.5"), 500_000_000, 750_000_000),
    ]
    assert pricing.total(lines) == 750_016_584


def test_a_video_by_the_seconds_that_it_plays():
    rates = pricing.Rates(nanos_per_gpu_second=3, nanos_per_media_second=100_000_000)
    lines = pricing.lines(rates, pricing.Quantities(media_duration_us=5_062_500, gpu_time_us=2_000_000))
    assert lines == [("gpu_second", Decimal(2), 3, 6), ("media_second", Decimal("5.0625"), 100_000_000, 506_250_000)]
    assert pricing.total(lines) == 506_250_006


@pytest.mark.parametrize(("gpu_time_us", "amount"), [(499_999, 0), (500_000, 1), (1_499_999, 1), (1_500_000, 2)])
def test_half_a_nano_is_rounded_up(gpu_time_us, amount):
    lines = pricing.lines(pricing.Rates(nanos_per_gpu_second=1), pricing.Quantities(gpu_time_us=gpu_time_us))
    assert pricing.total(lines) == amount


def test_the_minimum_is_a_line_of_its_own():
    rates = pricing.Rates(nanos_per_image=100, minimum_nanos=250)
    assert pricing.lines(rates, pricing.Quantities(images=1))[-1] == ("minimum", Decimal(1), 150, 150)
    assert len(pricing.lines(rates, pricing.Quantities(images=3))) == 1


def test_nothing_used_costs_nothing_but_the_minimum():
    assert pricing.lines(pricing.Rates(nanos_per_image=5), pricing.Quantities()) == []


@given(
    some.builds(pricing.Rates, currency=some.just("USD"), **dict.fromkeys(RATES, amounts)),
    some.builds(pricing.Quantities, images=amounts, pixels=amounts, gpu_time_us=amounts, media_duration_us=amounts),
)
def test_the_sum_is_within_half_a_nano_a_line_of_the_exact_price(rates, used):
    lines = pricing.lines(rates, used)
    millionths = used.pixels * rates.nanos_per_megapixel + used.gpu_time_us * rates.nanos_per_gpu_second
    millionths += used.media_duration_us * rates.nanos_per_media_second
    exact = used.images * rates.nanos_per_image + Fraction(millionths, 10**6)
    assert pricing.total(lines) >= rates.minimum_nanos
    if pricing.total(lines) > rates.minimum_nanos:
        assert abs(pricing.total(lines) - exact) <= Fraction(3, 2)
    for line in lines:
        assert abs(Fraction(line.quantity) * line.unit_price_nanos - line.amount_nanos) <= Fraction(1, 2)


def test_negative_numbers_are_refused():
    with pytest.raises(ValueError, match="nanos_per_image"):
        pricing.Rates(nanos_per_image=-1)
    with pytest.raises(ValueError, match="pixels"):
        pricing.Quantities(pixels=-1)
