from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.model_runner import batch

AGEING_US = 1000


def ask(key: str = "k", priority: int = 1, **changes: Any) -> batch.Ask:
    values: dict[str, Any] = {"waiting_since_us": 0, "arrived_us": 0}
    return batch.Ask(key=key, priority=priority, **(values | changes))


def names(asks: dict[str, batch.Ask], now_us: int = 0) -> str:
    order = batch.order(list(asks.values()), now_us=now_us, ageing_us=AGEING_US)
    return " ".join(list(asks)[index] for index in order)


def test_class_then_eagerness_then_deadline_then_fair_share_then_arrival() -> None:
    asks = {
        "late": ask(arrived_us=9),
        "early": ask(arrived_us=8),
        "had_much": ask(tenant_us=5),
        "soon": ask(deadline_us=70, tenant_us=9),
        "sooner": ask(deadline_us=60, tenant_us=9),
        "less_eager": ask(eagerness=1, deadline_us=1),
        "batch": ask(priority=2, deadline_us=1),
        "interactive": ask(priority=0, tenant_us=99, arrived_us=99),
    }
    assert names(asks) == "interactive sooner soon early late had_much less_eager batch"


def test_a_deadline_that_is_missed_hurries_nobody() -> None:
    asks = {"missed": ask(deadline_us=10, arrived_us=5), "soon": ask(deadline_us=70, arrived_us=9), "early": ask()}
    assert names(asks, now_us=20) == "soon early missed"
    assert names(asks, now_us=10) == "missed soon early"


def test_who_has_waited_counts_one_class_higher_and_goes_first_there() -> None:
    asks = {
        "interactive": ask(priority=0, waiting_since_us=3000),
        "standard": ask(waiting_since_us=3000),
        "aged": ask(waiting_since_us=2000),
        "older": ask(waiting_since_us=1900),
        "batch": ask(priority=2, waiting_since_us=2000),
    }
    assert names(asks, now_us=3000) == "older aged interactive batch standard"


def test_nobody_counts_more_than_interactive() -> None:
    assert batch.level(ask(priority=2), now_us=99_000, ageing_us=AGEING_US) == (0, 0)
    assert batch.level(ask(priority=0), now_us=99_000, ageing_us=AGEING_US) == (0, 1)


@settings(deadline=None)
@given(
    st.lists(
        st.builds(
            ask,
            priority=st.integers(0, 2),
            waiting_since_us=st.integers(0, 5000),
            arrived_us=st.integers(0, 5000),
            eagerness=st.integers(0, 2),
            deadline_us=st.none() | st.integers(0, 9000),
            tenant_us=st.integers(0, 3),
        ),
        max_size=12,
    ),
    st.integers(0, 9000),
)
def test_the_order_is_everybody_once_and_never_a_less_urgent_one_first(asks: list[batch.Ask], now_us: int) -> None:
    order = batch.order(asks, now_us=now_us, ageing_us=AGEING_US)
    assert sorted(order) == list(range(len(asks)))
    levels = [batch.level(asks[index], now_us=now_us, ageing_us=AGEING_US) for index in order]
    assert levels == sorted(levels)
    assert order == batch.order(asks, now_us=now_us, ageing_us=AGEING_US)


def test_companions_have_the_leaders_key_and_keep_the_order() -> None:
    asks = [ask("a"), ask("b"), ask("a"), ask("a", priority=0)]
    assert batch.companions(asks, [3, 0, 1, 2], 1) == [1]
    assert batch.companions(asks, [3, 0, 1, 2], 0) == [0, 3, 2]


def test_as_many_share_as_pay_off() -> None:
    levels = [(1, 1)] * 5
    assert batch.share(levels, rows_worth=3, rows_unhurried=lambda rows: rows) == 3
    assert batch.share(levels, rows_worth=9, rows_unhurried=lambda rows: rows) == 5


def test_less_urgent_ones_may_not_slow_an_urgent_one_too_much() -> None:
    levels = [(0, 1), (0, 1), (1, 1), (1, 1), (1, 1)]
    assert batch.share(levels, rows_worth=9, rows_unhurried=lambda rows: rows + 1) == 3
    assert batch.share(levels, rows_worth=9, rows_unhurried=lambda rows: rows * 9) == 5
    assert batch.share(levels, rows_worth=1, rows_unhurried=lambda rows: rows * 9) == 1
