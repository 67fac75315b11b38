import pytest

from darkroom import errors
from darkroom.billing_meter import domain, hold


@pytest.mark.parametrize(
    ("available", "wanted", "least", "granted"),
    [(100, 60, 10, 60), (100, 100, 100, 100), (100, 500, 10, 100), (10, 500, 10, 10)],
)
def test_what_is_wanted_or_all_there_is(available: int, wanted: int, least: int, granted: int) -> None:
    balance = domain.Balance(available_nanos=available, held_nanos=7)
    assert hold.decide(balance, wanted_nanos=wanted, least_nanos=least) == granted


@pytest.mark.parametrize("available", [0, 9])
def test_less_than_the_least_is_refused(available: int) -> None:
    with pytest.raises(errors.FailedPrecondition) as refusal:
        hold.decide(domain.Balance(available_nanos=available, held_nanos=1000), wanted_nanos=500, least_nanos=10)
    assert refusal.value.reason == "INSUFFICIENT_FUNDS"
