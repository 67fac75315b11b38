import dataclasses

import pytest

from darkroom.model_runner.engine.generation import Generation, Row
from darkroom.model_runner.engine.hurry import Hurry
from tests.model_runner.engine import counting
from tests.model_runner.engine.harness import job


def row(steps: int, step: int = 0, *, arrived_us: int = 0) -> Row:
    of = job("1", steps=steps)
    ((state,),) = counting.Counting().prepare([of])
    return Row(Generation(of, now_us=arrived_us), 0, dataclasses.replace(state, step=step), arrived_us)


def test_the_longest_may_take_a_little_longer_than_alone() -> None:
    hurry = Hurry(1.5)
    assert hurry.slower_max([row(50)], lone_us=100, now_us=0) == pytest.approx(1.5)
    # 2.5 of its 7.5 ms are gone, 3 ms of steps are left
    assert hurry.slower_max([row(50, 20)], lone_us=100, now_us=2500) == pytest.approx(5 / 3, rel=0.01)
    assert hurry.slower_max([row(50, 20)], lone_us=100, now_us=7000) == 1.0


def test_a_short_one_may_take_as_long_as_the_longest_of_its_kind() -> None:
    hurry = Hurry(1.5)
    hurry.slower_max([row(50)], lone_us=100, now_us=0)
    assert hurry.slower_max([row(25)], lone_us=100, now_us=0) == pytest.approx(3.0, rel=0.01)
    assert hurry.slower_max([row(4)], lone_us=100, now_us=0) == 4.0
    for _ in range(50_000):
        hurry.slower_max([row(4)], lone_us=100, now_us=0)
    assert hurry.slower_max([row(4)], lone_us=100, now_us=0) == pytest.approx(1.5)


def test_of_several_the_one_with_least_room_counts() -> None:
    hurry = Hurry(2.0)
    assert hurry.slower_max([row(4), row(50), row(25)], lone_us=100, now_us=0) == pytest.approx(2.0)


def test_what_is_known_is_bounded() -> None:
    hurry = Hurry(1.5)
    for size in range(2000):
        one = row(4)
        one.state = dataclasses.replace(one.state, batch_key=one.state.batch_key._replace(size=(size, 32)))
        hurry.slower_max([one], lone_us=100, now_us=0)
    assert len(hurry._longest_us) == 512
