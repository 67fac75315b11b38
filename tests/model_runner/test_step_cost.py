from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.model_runner import step_cost

SHAPE = step_cost.Shape("pocket-image", "64x64", True, 4, "text")


def table(**costs_us: int) -> step_cost.Table:
    """Return a table of `_<rows>=<microseconds>`, each measured often."""
    return step_cost.Table(
        step_cost.StepCost(SHAPE._replace(rows=int(rows[1:])), us, 10) for rows, us in costs_us.items()
    )


def test_the_first_step_is_the_first_average() -> None:
    costs = step_cost.Table()
    costs.observe(SHAPE, 1000)
    assert costs.snapshot() == (step_cost.StepCost(SHAPE, 1000, 1),)


def test_shapes_are_kept_apart() -> None:
    costs = step_cost.Table()
    costs.observe(SHAPE, 1000)
    costs.observe(SHAPE._replace(rows=8), 1500)
    costs.observe(SHAPE._replace(guided=False), 500)
    assert [cost.step_us for cost in costs.snapshot()] == [1000, 1500, 500]


def test_a_cold_start_is_forgotten_at_once() -> None:
    costs = step_cost.Table()
    for took_us in (100_000, 1000):
        costs.observe(SHAPE, took_us)
    (cost,) = costs.snapshot()
    assert (cost.step_us, cost.measured) == (1000, 2)


def test_other_users_of_the_device_show_as_a_slowdown_and_not_in_the_table() -> None:
    costs = step_cost.Table()
    for took_us in [1000] * 10 + [2000] * 10:
        costs.observe(SHAPE, took_us)
    (cost,) = costs.snapshot()
    assert cost.step_us < 1250
    assert 1.4 < costs.slowdown <= 2.0
    costs.observe(SHAPE._replace(rows=8), 3600)  # measured while the device was slow: without the others, half of that
    assert costs.snapshot()[1].step_us == pytest.approx(3600 / costs.slowdown, rel=0.1)
    for _ in range(20):
        costs.observe(SHAPE, 1000)
    assert costs.slowdown < 1.1


@pytest.mark.parametrize(
    ("costs", "available", "rows"),
    [
        ({}, 9, 1),  # first a lone row
        ({"_1": 100}, 9, 2),  # then twice as many
        ({"_1": 100, "_2": 150}, 9, 4),
        ({"_1": 100, "_2": 150}, 3, 3),
        ({"_1": 100, "_2": 150, "_4": 340}, 9, 8),  # 95 more for each: worth it
        ({"_1": 100, "_2": 150, "_4": 352}, 9, 2),  # 88 apiece after 75: dearer by more than noise
        ({"_1": 100, "_2": 150, "_4": 240, "_8": 645}, 9, 4),
        ({"_1": 100, "_2": 150, "_4": 240, "_8": 645}, 3, 3),
        ({"_1": 100, "_2": 240}, 9, 1),
        ({"_1": 100, "_2": 150, "_3": 260, "_4": 240}, 4, 4),  # an outlier between does not hide what is behind it
    ],
)
def test_rows_are_added_while_one_more_is_cheaper_than_alone(costs: dict[str, int], available: int, rows: int) -> None:
    assert table(**costs).rows_worth(SHAPE, available) == rows


def run(costs_us: Callable[[int], float], steps: int, available: int) -> list[int]:
    """Return how many rows each step had, on a device with these costs."""
    costs, chosen = step_cost.Table(), []
    for _ in range(steps):
        chosen.append(costs.rows_worth(SHAPE, available))
        costs.observe(SHAPE._replace(rows=chosen[-1]), round(costs_us(chosen[-1])))
    return chosen


def test_it_finds_the_edge_by_doubling_and_stays_there() -> None:
    # At 128x128: 1.5 times faster a row in batches of 8, 1.15 times in batches of 16.
    known = {1: 1000, 2: 1600, 4: 2900, 8: 5333, 16: 13913}
    chosen = run(known.__getitem__, 400, 16)
    assert chosen[:9] == [1, 1, 1, 2, 4, 8, 16, 16, 16]
    assert set(chosen[20:190]) == {8}
    assert chosen.count(16) < 12  # measured again from time to time
    assert chosen.count(1) < 8


def test_what_was_given_up_is_found_when_the_device_changes() -> None:
    chosen = run({1: 1000, 2: 2500}.__getitem__, 40, 2)
    assert set(chosen[10:]) == {1}
    costs = table(_1=1000, _2=2500)
    for _ in range(1000):
        rows = costs.rows_worth(SHAPE, 2)
        costs.observe(SHAPE._replace(rows=rows), {1: 1000, 2: 1200}[rows])
    assert costs.rows_worth(SHAPE, 2) == 2


@settings(deadline=None)
@given(st.dictionaries(st.integers(1, 32), st.integers(1, 10**6)), st.integers(1, 40))
def test_never_more_than_there_are(costs: dict[int, int], available: int) -> None:
    assert 1 <= table(**{f"_{rows}": us for rows, us in costs.items()}).rows_worth(SHAPE, available) <= available


def test_rows_that_slow_an_urgent_one_by_a_factor_at_most() -> None:
    costs = table(_1=100, _2=140, _4=220, _8=400)
    assert costs.rows_unhurried(SHAPE, 1, slower_max=2.0) == 3
    assert costs.rows_unhurried(SHAPE, 2, slower_max=2.0) == 5
    assert costs.rows_unhurried(SHAPE, 8, slower_max=2.0) == 16
    assert step_cost.Table().rows_unhurried(SHAPE, 3, slower_max=2.0) == 3


def test_costs_between_and_beyond_the_measured_ones() -> None:
    costs = table(_2=140, _4=220)
    assert [costs.cost_us(SHAPE._replace(rows=rows)) for rows in (1, 2, 3, 4, 8)] == [140, 140, 180, 220, 440]
    assert step_cost.Table().cost_us(SHAPE) == 0


def test_steps_that_reuse_tell_an_average_and_not_what_a_whole_step_costs() -> None:
    table = step_cost.Table()
    draft = step_cost.Shape("m", "64x64", True, 2, "text draft")
    for _ in range(60):
        table.observe_share(draft, 1000, reused=False)
        table.observe_share(draft, 200, reused=True)
    (cost,) = table.snapshot()
    assert cost.step_us == 1000
    assert cost.share == pytest.approx(0.6, abs=0.1)
    assert table.slowdown == 1.0
    restarted = step_cost.Table([cost])
    assert restarted.snapshot() == (cost,)
    restarted.observe_share(draft, 200, reused=True)
    assert restarted.snapshot()[0].share == pytest.approx(cost.share, abs=0.02)  # goes on from there


def test_kinds_that_were_not_seen_for_longest_are_forgotten() -> None:
    costs = step_cost.Table()
    costs.observe(SHAPE, 1000)
    for width in range(2000):
        costs.observe(SHAPE._replace(size=f"{width}x64"), 1000)
        assert costs.cost_us(SHAPE) == 1000  # it is asked for all the time
    told = costs.snapshot()
    assert len(told) == 512
    assert {SHAPE, SHAPE._replace(size="1999x64")} <= {cost.shape for cost in told}
    assert SHAPE._replace(size="0x64") not in {cost.shape for cost in told}
