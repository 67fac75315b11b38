from darkroom import pricing
from darkroom.scheduler import price

RATES = pricing.Rates(nanos_per_image=100, nanos_per_gpu_second=1_000_000)


def test_usage_is_priced() -> None:
    usage = pricing.Quantities(images=2, gpu_time_us=500)
    assert price.charge_nanos(RATES, usage, estimate_nanos=10_000) == 200 + 500


def test_never_above_the_estimate() -> None:
    usage = pricing.Quantities(images=2, gpu_time_us=10**9)
    assert price.charge_nanos(RATES, usage, estimate_nanos=10_000) == 10_000
