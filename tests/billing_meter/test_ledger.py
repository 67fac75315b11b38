import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom import errors
from darkroom.billing_meter import domain, ledger

AMOUNTS = st.integers(min_value=0, max_value=10**12)
SOLVENT = st.builds(domain.Balance, AMOUNTS, AMOUNTS, st.just(0))
OWING = st.builds(domain.Balance, st.just(0), st.just(0), AMOUNTS.map(lambda nanos: -nanos))
BALANCES = SOLVENT | OWING


def check(before: domain.Balance, entries: list[ledger.Entry]) -> domain.Balance:
    assert sum(entry.nanos for entry in entries) == 0
    assert all(entry.nanos for entry in entries)
    after = ledger.apply(before, entries)
    assert after.available_nanos >= 0
    assert after.held_nanos >= 0
    assert after.receivable_nanos <= 0
    assert after.receivable_nanos == 0 or (after.available_nanos, after.held_nanos) == (0, 0)
    return after


@given(BALANCES, AMOUNTS)
def test_a_charge_is_never_refused(before: domain.Balance, nanos: int) -> None:
    entries = ledger.charge(before, nanos)
    assert check(before, entries).total_nanos == before.total_nanos - nanos
    assert ledger.of(domain.Account.REVENUE, entries) == nanos


@given(BALANCES, AMOUNTS)
def test_credit_pays_what_is_owed_first(before: domain.Balance, nanos: int) -> None:
    after = check(before, ledger.credit(before, nanos))
    assert after.total_nanos == before.total_nanos + nanos
    assert after.receivable_nanos == min(0, before.receivable_nanos + nanos)


@given(SOLVENT, st.data())
def test_grants_and_releases_move_money_without_making_any(before: domain.Balance, data: st.DataObject) -> None:
    granted = data.draw(st.integers(0, before.available_nanos))
    held = check(before, ledger.grant(granted))
    assert held == (before.available_nanos - granted, before.held_nanos + granted, 0)
    assert check(held, ledger.release(held, granted)) == before


def test_a_charge_takes_held_then_available_money_and_the_rest_is_owed() -> None:
    entries = ledger.charge(domain.Balance(available_nanos=20, held_nanos=50), 100)
    assert {(entry.account.value, entry.nanos) for entry in entries} == {
        ("HELD", -50),
        ("AVAILABLE", -20),
        ("RECEIVABLE", -30),
        ("REVENUE", 100),
    }


def test_no_more_is_released_than_is_held() -> None:
    with pytest.raises(errors.FailedPrecondition) as refusal:
        ledger.release(domain.Balance(held_nanos=5), 6)
    assert refusal.value.reason == "RELEASE_EXCEEDS_HELD"


def test_a_balance_has_a_limit_that_bigint_can_hold() -> None:
    full = domain.Balance(available_nanos=domain.BALANCE_NANOS_MAX - 1)
    check(full, ledger.credit(full, 1))
    with pytest.raises(errors.FailedPrecondition) as refusal:
        ledger.credit(full, 2)
    assert refusal.value.reason == "BALANCE_LIMIT"
