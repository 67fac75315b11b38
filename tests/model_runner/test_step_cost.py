import pytest

from darkroom.model_runner import step_cost

SHAPE = step_cost.Shape("pocket-image", "64x64", True, 4)


def test_the_first_slice_is_the_first_average() -> None:
    table = step_cost.Table()
    table.observe(SHAPE, 1000)
    assert table.snapshot() == (step_cost.StepCost(SHAPE, 1000, 1),)


def test_shapes_are_kept_apart() -> None:
    table = step_cost.Table()
    table.observe(SHAPE, 1000)
    table.observe(SHAPE._replace(rows=8), 1500)
    assert [cost.step_us for cost in table.snapshot()] == [1000, 1500]


def test_a_cold_start_is_soon_forgotten() -> None:
    table = step_cost.Table()
    table.observe(SHAPE, 100_000)
    for _ in range(20):
        table.observe(SHAPE, 1000)
    (cost,) = table.snapshot()
    assert cost.step_us == pytest.approx(1000, rel=1.2)
    assert cost.measured == 21
    assert table.slowdown == 1.0


def test_other_users_of_the_device_show_as_a_slowdown_and_not_in_the_table() -> None:
    table = step_cost.Table()
    for took_us in [1000] * 10 + [2000] * 10:
        table.observe(SHAPE, took_us)
    (cost,) = table.snapshot()
    assert cost.step_us < 1250
    assert 1.4 < table.slowdown <= 2.0
    for _ in range(20):
        table.observe(SHAPE, 1000)
    assert table.slowdown < 1.1
