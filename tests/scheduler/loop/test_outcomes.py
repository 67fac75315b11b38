import datetime

import pytest

from darkroom import pricing
from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.api.scheduler.v1 import generation_pb2
from darkroom.api.types.v1 import media_pb2, money_pb2
from darkroom.scheduler.domain import generation as domain
from darkroom.scheduler.loop import outcomes

USED = pricing.Quantities(gpu_time_us=1_000_000, steps=10)


def generation(**changes):
    values = {
        "generation_id": "gen_1",
        "tenant_id": "ten_1",
        "model": "m",
        "model_revision": "r",
        "state": domain.State.RUNNING,
        "priority": domain.Priority.STANDARD,
        "input": b"",
        "tags": {},
        "price_version_id": "p",
        "currency": "USD",
        "estimate_nanos": 1_000,
        "rates": {"nanos_per_gpu_second": 400, "nanos_per_image": 50},
        "work_us": 5,
        "steps_total": 7,
        "steps_done": 0,
        "sequence": 2,
        "created_at": datetime.datetime.now(datetime.UTC),
        **changes,
    }
    return domain.Generation(**values)


def completed(**used):
    return pb.Completed(
        usage=money_pb2.Usage(**used),
        artifacts=[media_pb2.Artifact(media_id="med_1", size_bytes=2**40, seed=7)],
        stages=generation_pb2.StageTimes(denoise_us=5, encode_us=6),
    )


def test_success_is_charged_by_its_usage():
    end = outcomes.succeeded(completed(gpu_time_us=1_000_000, images=2))(generation())
    assert (end.state, end.charge_nanos, end.free_reason, end.error) == (domain.State.SUCCEEDED, 500, "", None)
    assert end.usage == pricing.Quantities(gpu_time_us=1_000_000, images=2)
    assert end.stages == {"denoise_us": 5, "encode_us": 6}
    assert end.artifacts == [{"media_id": "med_1", "size_bytes": str(2**40), "seed": "7"}]


def test_what_a_database_cannot_hold_is_taken_out():
    message = pb.Completed(artifacts=[media_pb2.Artifact(media_id="med\0_1")])
    assert outcomes.succeeded(message)(generation()).artifacts == [{"media_id": "med_1"}]


def test_a_charge_never_exceeds_the_estimate():
    assert outcomes.succeeded(completed(gpu_time_us=10**12))(generation()).charge_nanos == 1_000


def test_a_runner_that_reports_less_than_nothing_gives_no_credit():
    end = outcomes.succeeded(completed(gpu_time_us=-5, images=-1))(generation())
    assert (end.charge_nanos, end.usage) == (0, pricing.Quantities())


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ({}, {"reason": "FAILED", "message": "The request cannot be carried out.", "retryable": False}),
        (
            {"reason": "ADAPTER_INVALID", "message": "It is\0 bad.", "retryable": True},
            {"reason": "ADAPTER_INVALID", "message": "It is bad.", "retryable": True},
        ),
    ],
)
def test_failure_is_free(error, told):
    message = pb.Failed(error=generation_pb2.GenerationError(**error), usage=money_pb2.Usage(gpu_time_us=9))
    end = outcomes.failed(message)(generation())
    assert (end.state, end.charge_nanos, end.free_reason) == (domain.State.FAILED, 0, "FAILED")
    assert end.error == told
    assert end.usage.gpu_time_us == 9


@pytest.mark.parametrize(("by_caller", "reason"), [(True, "CANCELLED"), (False, "DEADLINE_EXCEEDED")])
def test_cancelled_work_is_free(by_caller, reason):
    end = outcomes.cancelled(USED, charging=())(generation(cancel_requested=by_caller))
    assert (end.state, end.charge_nanos, end.free_reason) == (domain.State.CANCELLED, 0, reason)
    assert end.error is not None
    assert end.error["reason"] == reason
    assert end.usage == USED


def test_cancelled_work_is_charged_where_the_model_says_so():
    end = outcomes.cancelled(USED, charging={generation().model})(generation(cancel_requested=True))
    assert (end.state, end.charge_nanos, end.free_reason) == (domain.State.CANCELLED, 400, "")
    nothing = outcomes.cancelled(pricing.Quantities(), charging={generation().model})(generation(cancel_requested=True))
    assert (nothing.charge_nanos, nothing.free_reason) == (0, "CANCELLED")


def test_how_far_the_estimate_was_from_the_time_is_measured(monkeypatch):
    told = []
    monkeypatch.setattr(outcomes._estimate_error, "record", lambda value, labels: told.append((value, labels)))
    outcomes.succeeded(completed(gpu_time_us=150))(generation(work_us=100, shape="64x64 draft"))
    outcomes.succeeded(completed(gpu_time_us=25))(generation(work_us=100))
    outcomes.succeeded(completed(gpu_time_us=25))(generation(work_us=0))  # of which no share can be told
    assert told == [(0.5, {"model": "m", "shape": "64x64 draft"}), (0.75, {"model": "m", "shape": ""})]
