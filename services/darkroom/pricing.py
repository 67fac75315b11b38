"""The one pricing function of the house.

Rates and quantities come in; lines whose amounts add up to the price go out. The scheduler calls it for estimates,
billing_meter for charges, so that both are the same arithmetic: integers only, each line rounded half up to a
nano-unit.
"""

import dataclasses
import decimal
from collections.abc import Sequence
from typing import NamedTuple


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """What a model costs: non-negative nano-units per unit, and the least that one generation costs."""

    currency: str = "USD"
    nanos_per_image: int = 0
    nanos_per_megapixel: int = 0
    nanos_per_gpu_second: int = 0
    nanos_per_media_second: int = 0
    minimum_nanos: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name != "currency" and not 0 <= value < 2**63:
                raise ValueError(f"{field.name} must be 0 or more and below 2^63")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantities:
    """What one generation used (or may use at most, in an estimate), in the units of the protos' Usage."""

    gpu_time_us: int = 0
    steps: int = 0
    images: int = 0
    pixels: int = 0
    media_duration_us: int = 0
    training_steps: int = 0
    cached_steps: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 0:
                raise ValueError(f"{field.name} must not be negative")


class PriceLine(NamedTuple):
    """One line of a price; `meter` is its unit: "image", "megapixel", "gpu_second", "media_second" or "minimum"."""

    meter: str
    quantity: decimal.Decimal
    unit_price_nanos: int
    amount_nanos: int


def lines(rates: Rates, quantities: Quantities) -> list[PriceLine]:
    """Price what was used: a line for each meter that costs something, and one that lifts the sum to the minimum."""
    candidates = [
        _line("image", quantities.images, 1, rates.nanos_per_image),
        _line("megapixel", quantities.pixels, 1_000_000, rates.nanos_per_megapixel),
        _line("gpu_second", quantities.gpu_time_us, 1_000_000, rates.nanos_per_gpu_second),
        _line("media_second", quantities.media_duration_us, 1_000_000, rates.nanos_per_media_second),
    ]
    priced = [line for line in candidates if line.quantity and line.unit_price_nanos]
    missing = rates.minimum_nanos - total(priced)
    if missing > 0:
        priced.append(_line("minimum", 1, 1, missing))
    return priced


def total(priced: Sequence[PriceLine]) -> int:
    """Sum the lines' amounts, in nano-units."""
    return sum(line.amount_nanos for line in priced)


def _line(meter: str, quantity: int, per_unit: int, unit_price_nanos: int) -> PriceLine:
    amount_nanos = (2 * quantity * unit_price_nanos + per_unit) // (2 * per_unit)
    return PriceLine(meter, decimal.Decimal(quantity) / per_unit, unit_price_nanos, amount_nanos)
