"""What a runner's last word about an attempt means for its generation.

A Completed, Failed or Cancelled message comes in; a function goes out that `store.attempts.finish` calls with the generation's row,
since the price depends on it. Success is charged, failure is free, cancelled work is free unless the model charges used steps.
"""

from collections.abc import Callable, Collection
from typing import Any

from google.protobuf import json_format
from opentelemetry import metrics

from darkroom import pricing
from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.scheduler import price
from darkroom.scheduler.domain import generation as domain
from darkroom.scheduler.peers import runner as peer
from darkroom.scheduler.store import generations

_estimate_error = metrics.get_meter(__name__).create_histogram(
    "darkroom.scheduler.estimate.error",
    unit="1",
    description="how far accelerator time was from its estimate, as a share of the estimate",
    explicit_bucket_boundaries_advisory=(0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0),
)

Ending = Callable[[domain.Generation], generations.End]


def succeeded(message: pb.Completed) -> Ending:
    """Its artifacts are stored: charge what it used."""
    used = peer.usage(message.usage)
    stages = {field.name: int(value) for field, value in message.stages.ListFields()}
    artifacts = [_clean(json_format.MessageToDict(one, preserving_proto_field_name=True)) for one in message.artifacts]

    def end(generation: domain.Generation) -> generations.End:
        if generation.work_us:
            error = abs(used.gpu_time_us - generation.work_us) / generation.work_us
            _estimate_error.record(error, {"model": generation.model, "shape": generation.shape})
        return generations.End(
            state=domain.State.SUCCEEDED,
            usage=used,
            charge_nanos=_charge(generation, used),
            stages=stages,
            artifacts=artifacts,
            resumed_step=max(message.resumed_step, 0),
        )

    return end


def failed(message: pb.Failed) -> Ending:
    """The request itself is at fault: free."""
    error = {
        "reason": message.error.reason or "FAILED",
        "message": message.error.message or "The request cannot be carried out.",
        "retryable": message.error.retryable,
    }
    error = _clean(error)
    used = peer.usage(message.usage)
    return lambda generation: generations.End(state=domain.State.FAILED, usage=used, free_reason="FAILED", error=error)


def cancelled(usage: pricing.Quantities, *, charging: Collection[str]) -> Ending:
    """Its caller ended it, or else its deadline; models in `charging` charge used steps."""
    return lambda generation: generations.cancelled(generation, charging=charging, usage=usage)


def _charge(generation: domain.Generation, used: pricing.Quantities) -> int:
    return price.charge_nanos(price.read_rates(generation.rates), used, estimate_nanos=generation.estimate_nanos)


def _clean(fields: dict[str, Any]) -> dict[str, Any]:
    """Take out of texts what PostgreSQL's jsonb refuses, so that no outcome can be impossible to commit."""
    return {name: value.replace("\0", "") if isinstance(value, str) else value for name, value in fields.items()}
