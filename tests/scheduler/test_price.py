import dataclasses
from pathlib import Path

from darkroom import catalog, pricing
from darkroom.scheduler import price
from tests.scheduler.conftest import MODEL

RATES = pricing.Rates(nanos_per_image=100, nanos_per_gpu_second=1_000_000)


def test_usage_is_priced() -> None:
    usage = pricing.Quantities(images=2, gpu_time_us=500)
    assert price.charge_nanos(RATES, usage, estimate_nanos=10_000) == 200 + 500


def test_never_above_the_estimate() -> None:
    usage = pricing.Quantities(images=2, gpu_time_us=10**9)
    assert price.charge_nanos(RATES, usage, estimate_nanos=10_000) == 10_000


def test_a_rate_that_a_later_version_knows_is_left_out() -> None:
    assert price.read_rates({**dataclasses.asdict(RATES), "nanos_per_later": 9}) == RATES


def test_models_that_charge_for_used_steps_are_told(catalog_dir: Path) -> None:
    free = catalog.load(catalog_dir)[MODEL]
    charging = dataclasses.replace(free, name="strict", charge_cancelled="used_steps")
    assert price.charging([free, charging]) == {"strict"}
