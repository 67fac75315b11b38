import pytest

from darkroom.scheduler import predict
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
