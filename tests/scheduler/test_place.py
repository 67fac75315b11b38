import dataclasses

import pytest

from darkroom.scheduler import filters, place
from darkroom.scheduler.domain import fleet

RULES = place.Rules(
    filters.Limits(heartbeat_stale_s=1.5, runner_attempts_max=4),
    {"time": 0.6, "unshared": 0.15, "resident": 0.1, "room": 0.1, "untried": 0.05},
)
JOB = fleet.Job(
    generation_id="gen_1",
    tenant_id="ten_1",
    model="m",
    shape="64x64",
    priority=2,
    steps_total=10,
    work_us=400_000,
    waited_s=0.0,
    model_load_us=700_000,
)


def runner(name, **changes):
    base = fleet.Runner(
        runner_id=f"run_{name}", node=f"node-{name}", models=frozenset({"m"}), resident=frozenset({"m"})
    )
    return dataclasses.replace(base, **changes)


def test_a_device_used_by_others_loses_and_the_summary_says_so():
    decision = place.place(JOB, [runner("a", foreign_utilization=0.9), runner("b")], RULES)
    assert decision.runner_id == "run_b"
    assert decision.summary == (
        "run_b on node-b: predicted 0.4 s; run_a on node-a was slower: 90 % of its device is used by others"
    )
    assert [one.predicted_us for one in decision.candidates] == [400_000, 1_600_000]


@pytest.mark.parametrize(
    ("other", "job", "why"),
    [
        ({"resident": frozenset()}, {}, "run_a on node-a would have had to load the model first"),
        ({"backlog_us": {2: 100_000}}, {}, "run_a on node-a was slower: predicted 0.5 s"),
        ({}, {"last_runner_id": "run_a"}, "run_a on node-a had the attempt before"),
    ],
)
def test_the_summary_names_what_decided(other, job, why):
    decision = place.place(dataclasses.replace(JOB, **job), [runner("a", **other), runner("b")], RULES)
    assert decision.runner_id == "run_b"
    assert decision.summary == f"run_b on node-b: predicted 0.4 s; {why}"


def test_among_equals_the_first_id_wins():
    decision = place.place(JOB, [runner("b"), runner("a")], RULES)
    assert decision.runner_id == "run_a"
    assert decision.summary.endswith("run_b on node-b was no better")


def test_refusals_are_counted():
    runners = [runner("a"), runner("b", draining=True), runner("c", draining=True), runner("d", attempts=4)]
    decision = place.place(JOB, runners, RULES)
    assert decision.rejections == {"draining": 2, "full": 1}
    assert decision.summary == ("run_a on node-a: predicted 0.4 s; no other runner could take it (2 draining, 1 full)")


def test_nobody_can_take_it():
    decision = place.place(JOB, [runner("a", models=frozenset())], RULES)
    assert decision.runner_id == ""
    assert decision.rejections == {"model_not_loadable": 1}
    assert decision.summary == "no runner can take it now (1 model not loadable)"


def test_stale_telemetry_is_used_only_when_there_is_no_other():
    stale, staler = runner("a", silent_s=2.0), runner("b", silent_s=2.5)
    assert place.place(JOB, [stale, staler], RULES).runner_id == "run_a"
    assert place.place(JOB, [staler, stale, runner("c")], RULES).runner_id == "run_c"


def test_only_the_best_five_candidates_are_kept():
    runners = [runner(f"{number}", backlog_us={2: number * 1000}) for number in range(9)]
    assert [one.runner_id for one in place.place(JOB, runners, RULES).candidates] == [f"run_{n}" for n in range(5)]


def test_a_suspect_is_said_to_run_alone():
    decision = place.place(dataclasses.replace(JOB, suspect=True), [runner("a")], RULES)
    assert "alone, since a runner died with it aboard" in decision.summary


def test_long_predictions_are_told_in_whole_seconds():
    assert "predicted 123 s" in place.place(dataclasses.replace(JOB, work_us=123_400_000), [runner("a")], RULES).summary
