import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.scheduler import scorers
from darkroom.scheduler.domain import fleet

WEIGHTS = {"time": 3.0, "unshared": 1.0, "resident": 1.0, "room": 1.0, "untried": 2.0}
JOB = fleet.Job(
    generation_id="gen_1",
    tenant_id="ten_1",
    model="m",
    shape="64x64",
    priority=2,
    steps_total=10,
    work_us=5_000,
    waited_s=0.0,
    last_runner_id="run_0",
)


def runner(**changes):
    return fleet.Runner(runner_id=changes.pop("runner_id", "run_1"), node="n", models=frozenset({"m"}), **changes)


@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        ({}, "time", 0.5),
        ({}, "unshared", 1.0),
        ({"foreign_utilization": 0.9}, "unshared", 0.1),
        ({}, "resident", 0.0),
        ({"resident": frozenset({"m"})}, "resident", 1.0),
        ({"attempts": 1}, "room", 0.75),
        ({"attempts": 9}, "room", 0.0),
        ({}, "untried", 1.0),
        ({"runner_id": "run_0"}, "untried", 0.0),
    ],
)
def test_terms(changes, name, value):
    judged = scorers.terms(JOB, runner(**changes), predicted_us=200, fastest_us=100, runner_attempts_max=4)
    assert judged[name] == pytest.approx(value)


def test_score_is_the_weighted_mean():
    judged = {"time": 1.0, "unshared": 0.5, "resident": 0.0, "room": 0.0, "untried": 1.0}
    assert scorers.score(judged, WEIGHTS) == pytest.approx((3 + 0.5 + 2) / 8)
    assert scorers.score(judged, dict.fromkeys(WEIGHTS, 0.0)) == 0.0


@given(
    foreign=st.floats(0, 1),
    attempts=st.integers(0, 100),
    predicted_us=st.integers(0, 10**12),
    lead=st.integers(0, 10**12),
    weights=st.fixed_dictionaries({name: st.floats(0, 1000) for name in WEIGHTS}),
)
def test_every_term_and_score_lies_in_0_to_1(foreign, attempts, predicted_us, lead, weights):
    judged = scorers.terms(
        JOB,
        runner(foreign_utilization=foreign, attempts=attempts),
        predicted_us=predicted_us + lead,
        fastest_us=predicted_us,
        runner_attempts_max=16,
    )
    assert all(0.0 <= value <= 1.0 for value in judged.values())
    assert 0.0 <= scorers.score(judged, weights) <= 1.0 + 1e-9
