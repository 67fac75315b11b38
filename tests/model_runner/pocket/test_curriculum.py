"""The stages follow on each other, narrow, and end at rest."""

import itertools
import math

import pytest

from darkroom.model_runner.pocket import curriculum


def test_stages_follow_on_each_other_and_narrow() -> None:
    for before, after in itertools.pairwise(curriculum.STAGES):
        assert before.until < after.until
        assert before.grid_px <= after.grid_px


def test_training_ends_with_a_small_rate() -> None:
    last = curriculum.STAGES[-1]
    assert 0 < last.rate(last.until) < 0.2 * last.rate_peak


def test_a_stage_starts_its_own_rise_where_it_says() -> None:
    stage = curriculum.STAGES[-1]._replace(rate_from=100, rate_until=200, warmup=10, rate_peak=2.0)
    assert stage.rate(100) == pytest.approx(0.2)
    assert stage.rate(150) == pytest.approx(1.0)


def test_the_rate_rises_then_falls_to_nothing() -> None:
    rates = [curriculum.rate(step, steps=100, warmup=10) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9]
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert math.isclose(rates[100], 0.0, abs_tol=1e-12)
