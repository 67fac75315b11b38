from darkroom import pricing
from darkroom.billing_meter import domain, report


def row(generations: int, pixels: int, amount_nanos: int, free: int) -> domain.UsageRow:
    return domain.UsageRow(
        "m", "2026-11-20", generations, pricing.Quantities(pixels=pixels, steps=1), amount_nanos, free
    )


def test_rows_add_up() -> None:
    total = report.total([row(2, 100, 7, 1), row(3, 50, 10**18, 0)])
    assert total == ("", "", 5, pricing.Quantities(pixels=150, steps=2), 10**18 + 7, 1)


def test_no_rows_add_up_to_zeros() -> None:
    assert report.total([]) == ("", "", 0, pricing.Quantities(), 0, 0)
