"""Prices are exact integers, rounded half up line by line, never below the minimum."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as some

from darkroom import pricing

amounts = some.integers(0, 10**12)


def test_a_price_by_hand():
    rates = pricing.Rates(nanos_per_image=100, nanos_per_megapixel=2_000_000, nanos_per_gpu_second=500_000_000)
    lines = pricing.lines(rates, pricing.Quantities(images=2, pixels=8192, gpu_time_us=1_500_000, steps=56))
    assert lines == [
        ("image", Decimal(2), 100, 200),
        ("megapixel", Decimal("0.008192"), 2_000_000, 16_384),
        ("gpu_second", Decimal("1.5"), 500_000_000, 750_000_000),
    ]
    assert pricing.total(lines) == 750_016_584


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


@given(amounts, amounts, amounts, amounts, amounts, amounts, amounts)
def test_the_sum_is_within_half_a_nano_a_line_of_the_exact_price(images, pixels, us, per_image, per_mp, per_s, minimum):
    rates = pricing.Rates(
        nanos_per_image=per_image, nanos_per_megapixel=per_mp, nanos_per_gpu_second=per_s, minimum_nanos=minimum
    )
    lines = pricing.lines(rates, pricing.Quantities(images=images, pixels=pixels, gpu_time_us=us))
    exact = images * per_image + Fraction(pixels * per_mp + us * per_s, 10**6)
    assert pricing.total(lines) >= minimum
    if pricing.total(lines) > minimum:
        assert abs(pricing.total(lines) - exact) <= 1
    for line in lines:
        assert abs(Fraction(line.quantity) * line.unit_price_nanos - line.amount_nanos) <= Fraction(1, 2)


def test_negative_numbers_are_refused():
    with pytest.raises(ValueError, match="nanos_per_image"):
        pricing.Rates(nanos_per_image=-1)
    with pytest.raises(ValueError, match="pixels"):
        pricing.Quantities(pixels=-1)
