import collections
import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.scheduler import fair, filters, place, schedule
from darkroom.scheduler.domain import fleet

RULES = place.Rules(
    filters.Limits(heartbeat_stale_s=1.5, runner_attempts_max=4),
    {"time": 0.6, "unshared": 0.15, "resident": 0.1, "room": 0.1, "untried": 0.05},
)


def job(name, **changes):
    base = fleet.Job(
        generation_id=name,
        tenant_id="ten_1",
        model="m",
        shape="64x64",
        priority=2,
        steps_total=10,
        work_us=1000,
        waited_s=0.0,
        model_load_us=500,
    )
    return dataclasses.replace(base, **changes)


def runner(name, **changes):
    base = fleet.Runner(runner_id=name, node="n", models=frozenset({"m", "k"}), resident=frozenset({"m"}))
    return dataclasses.replace(base, **changes)


def plan(jobs, runners):
    placements = schedule.plan(jobs, runners, fair.Shares(), RULES, ageing_s=60.0)
    return {one.job.generation_id: one.decision.runner_id for one in placements}


def test_each_decision_counts_for_the_next_so_nothing_herds():
    placed = plan([job(f"g{n}") for n in range(6)], [runner("a"), runner("b"), runner("c")])
    assert collections.Counter(placed.values()) == {"a": 2, "b": 2, "c": 2}


def test_what_does_not_fit_waits():
    assert plan([job(f"g{n}") for n in range(6)], [runner("a")]) == {f"g{n}": "a" for n in range(4)}


def test_a_model_without_a_runner_does_not_hold_up_another():
    jobs = [job("g0", model="elsewhere", waited_s=5.0), job("g1", model="elsewhere"), job("g2")]
    assert plan(jobs, [runner("a")]) == {"g2": "a"}


def test_reserving_pays_for_the_load_once():
    reserved = schedule.reserve(job("g", model="k"), runner("a"))
    assert (reserved.attempts, reserved.backlog_us, reserved.loading_us) == (1, {2: 1000}, 500)
    again = schedule.reserve(job("h", model="k"), reserved)
    assert (again.attempts, again.backlog_us) == (2, {2: 2000})
    assert again.loading_us == 500
    assert schedule.reserve(job("i", priority=1), again).backlog_us == {2: 2000, 1: 1000}


def test_a_suspect_gets_an_empty_runner_and_nobody_joins_it():
    jobs = [job("bad", suspect=True, waited_s=9.0), job("g1"), job("g2")]
    assert plan(jobs, [runner("a", attempts=1), runner("b")]) == {"bad": "b", "g1": "a", "g2": "a"}


def test_a_suspect_that_finds_no_empty_runner_keeps_one_from_filling_up():
    jobs = [job("bad", suspect=True, waited_s=9.0), job("g1"), job("g2")]
    assert plan(jobs, [runner("a", attempts=2), runner("b", attempts=1)]) == {"g1": "a", "g2": "a"}
    assert plan(jobs, [runner("a", attempts=1)]) == {}


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from("mkx"), st.sampled_from("ab")), max_size=30),
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=5),
)
def test_no_runner_is_overfilled_and_suspects_are_alone(wanted, facts):
    jobs = [
        job(f"g{n:02}", suspect=suspect, model=model, tenant_id=tenant)
        for n, (suspect, model, tenant) in enumerate(wanted)
    ]
    runners = {f"r{n}": runner(f"r{n}", attempts=aboard, draining=gone) for n, (aboard, gone) in enumerate(facts)}
    placed = plan(jobs, runners.values())
    for name, one in runners.items():
        here = [job for job in jobs if placed.get(job.generation_id) == name]
        assert not here or not one.draining
        assert not here or len(here) + one.attempts <= 4
        if any(job.suspect for job in here):
            assert len(here) + one.attempts == 1
