"""Money is written exactly and read back as the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from darkroom import money


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (0, "0.00 USD"),
        (1, "0.000000001 USD"),
        (1_234_000, "0.001234 USD"),
        (3_000_000_000, "3.00 USD"),
        (-500_000_000, "-0.50 USD"),
        (12_345_678_901, "12.345678901 USD"),
    ],
)
def test_format(nanos, text):
    assert money.format_nanos(nanos, "USD") == text


@given(some.integers(-money.NANOS_MAX, money.NANOS_MAX))
def test_what_is_written_is_read_back(nanos):
    assert money.parse(money.format_nanos(nanos, "EUR")) == (nanos, "EUR")


def test_an_amount_without_a_currency():
    assert money.parse("12.5") == (12_500_000_000, "USD")
    assert money.parse("7", currency="EUR") == (7_000_000_000, "EUR")


@pytest.mark.parametrize(
    "text", ["", "x", "1e3", "1.0000000001", "1,5", ".5", "NaN", "1 usd", "1 USDX", "9999999999", "١"]
)
def test_what_is_not_money(text):
    with pytest.raises(ValueError, match=r"amount|currency"):
        money.parse(text)
