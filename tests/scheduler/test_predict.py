import pytest

from darkroom.scheduler import bucket, predict
from darkroom.scheduler.domain import fleet

JOB = fleet.Job(
    generation_id="gen_1",
    tenant_id="ten_1",
    model="m",
    shape="64x64",
    priority=2,
    steps_total=10,
    work_us=5_000,
    waited_s=0.0,
    model_load_us=700,
)
RUNNER = fleet.Runner(runner_id="run_1", node="node-a", models=frozenset({"m"}), resident=frozenset({"m"}))


def with_(thing, **changes):
    return type(thing)(**{**vars(thing), **changes})


@pytest.mark.parametrize(
    ("changes", "predicted_us"),
    [
        ({}, 5_000),  # not measured: as accepted
        ({"step_us": {("m", "64x64"): 300}}, 3_000),
        ({"step_us": {("m", "128x64"): 300}}, 5_000),
        ({"kind_us": {"m": bucket.Nearest({"128x64": 800})}}, 4_000),  # before what was accepted for all kinds
        ({"kind_us": {"m": bucket.Nearest({"64x64": 800})}, "step_us": {("m", "64x64"): 300}}, 3_000),
        ({"kind_us": {"m": bucket.Nearest({"window": 800}), "k": bucket.Nearest({"64x64": 800})}}, 5_000),
        ({"resident": frozenset()}, 5_700),
        ({"backlog_us": {2: 1_000}}, 6_000),
        ({"backlog_us": {1: 300, 2: 1_000, 3: 9_000}}, 6_300),  # what is less urgent gives way
        ({"foreign_utilization": 0.5}, 10_000),
        ({"foreign_utilization": 0.5, "backlog_us": {2: 1_000}, "resident": frozenset()}, 12_700),
        ({"foreign_utilization": 0.9}, 20_000),  # four times longer at most
        ({"foreign_utilization": 1.0}, 20_000),
    ],
)
def test_completion(changes, predicted_us):
    assert predict.completion_us(JOB, with_(RUNNER, **changes)) == predicted_us


def test_text_decoding_and_files_come_to_the_steps():
    job = with_(JOB, fixed_us=1_000, encode_us=70)  # of 5,000
    measured = with_(RUNNER, step_us={("m", "64x64"): 300}, foreign_utilization=0.5)
    assert predict.work_us(job, RUNNER) == 5_000
    assert predict.work_us(with_(job, steps_kept=5), RUNNER) == 3_000
    assert predict.work_us(job, measured) == 4_000
    assert predict.completion_us(job, measured) == 8_070  # files are not made by the device that others use


@pytest.mark.parametrize(("kept", "accepted_us", "measured_us"), [(0, 5_000, 3_000), (4, 3_000, 1_800), (99, 0, 0)])
def test_steps_that_a_checkpoint_keeps_are_no_work(kept, accepted_us, measured_us):
    job, measured = with_(JOB, steps_kept=kept), with_(RUNNER, step_us={("m", "64x64"): 300})
    assert (predict.work_us(job, RUNNER), predict.work_us(job, measured)) == (accepted_us, measured_us)


def test_what_is_left_of_a_work_is_its_other_steps_and_what_is_not_steps():
    left = [predict.left_us(1_000, fixed_us=100, steps_total=9, steps_done=done) for done in (0, 3, 9, 99)]
    assert left == [1_000, 700, 100, 100]
    assert predict.left_us(1_000, fixed_us=100, steps_total=0, steps_done=0) == 100


def test_what_is_aboard_is_ahead_and_its_models_are_loaded_once():
    loads = [
        fleet.Load("m", 2, 1_000, "run_1", 9_999),
        fleet.Load("k", 2, 200, "run_1", 50),
        fleet.Load("k", 3, 400, "run_1", 90),
        fleet.Load("h", 1, 3, "run_1", 9_999),
    ]
    laden = predict.laden(RUNNER, loads, {"m": 500, "k": 300, "h": 500})
    assert (laden.backlog_us, laden.loading_us) == ({1: 3, 2: 1_200, 3: 400}, 210)  # h takes longer than was guessed
    assert laden.resident == {"m", "k", "h"}
    assert predict.load_us(with_(JOB, model="k"), laden) == 0
    assert predict.load_us(with_(JOB, model="l"), laden) == 700
    assert predict.wait_us(2, laden) == 210 + 1_203
    shared = with_(laden, foreign_utilization=0.5)
    assert (predict.wait_us(1, shared), predict.wait_us(2, shared)) == (216, 2_616)  # a load is no steps of the device
    assert predict.completion_us(with_(JOB, model="k"), shared) == 2_616 + 10_000
    assert predict.laden(RUNNER, [], {}) == RUNNER
