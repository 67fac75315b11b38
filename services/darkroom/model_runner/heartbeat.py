"""What a runner tells of itself, as messages: its device, and how it is.

The device's identity and samples and the engine's snapshot come in; a Device for its registration and Heartbeats for the owner of its pool
go out. Nothing here waits or remembers. Next: `loop.announce` sends them.
"""

import dataclasses
from collections.abc import Iterable

from google.protobuf import timestamp_pb2

from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.api.types.v1 import device_pb2
from darkroom.model_runner import fixed_cost, nvml, step_cost
from darkroom.model_runner.engine import job as engine_job

_OPTIONAL_SAMPLE_FIELDS = (
    "utilization_percent",
    "memory_used_bytes",
    "memory_total_bytes",
    "power_mw",
    "temperature_c",
    "throttle_reasons",
    "ecc_uncorrectable",
    "last_xid",
)


def device(identity: nvml.DeviceIdentity) -> device_pb2.Device:
    """What the accelerator is."""
    return device_pb2.Device(**dataclasses.asdict(identity))


def sample(seen: nvml.DeviceSample) -> device_pb2.DeviceSample:
    """What the device showed; what it did not answer stays unset."""
    told = {name: value for name in _OPTIONAL_SAMPLE_FIELDS if (value := getattr(seen, name)) is not None}
    at = timestamp_pb2.Timestamp()
    at.FromDatetime(seen.sampled_at)
    return device_pb2.DeviceSample(
        sampled_at=at,
        foreign_processes=seen.foreign_processes,
        healthy=seen.healthy,
        unhealthy_reason=seen.unhealthy_reason,
        **told,
    )


def step_costs(costs: Iterable[step_cost.StepCost]) -> list[pb.StepCost]:
    """The table as the scheduler reads it: tiers apart ("64x64 draft"); other variants of a step are one line, the dearer."""
    told: dict[tuple[str, str, bool, int], pb.StepCost] = {}
    for cost in sorted(costs, key=lambda cost: cost.step_us * cost.share):
        model, size, guided, rows, variant = cost.shape
        bucket = " ".join([size, *(word for word in variant.split() if word in ("high", "draft"))])
        step_us = max(1, round(cost.step_us * cost.share))
        told[model, bucket, guided, rows] = pb.StepCost(
            model=model, shape=bucket, rows=rows, step_us=step_us, guided=guided
        )
    return list(told.values())


def fixed_costs(costs: Iterable[fixed_cost.FixedCost]) -> list[pb.FixedCost]:
    """What generations take besides their steps, as the scheduler reads it."""
    return [
        pb.FixedCost(
            model=cost.model,
            shape=cost.size,
            prepare_us=cost.prepare_us,
            decode_us=cost.decode_us,
            encode_us=cost.encode_us,
        )
        for cost in costs
    ]


def beat(
    seen: nvml.DeviceSample, engine: engine_job.Snapshot, *, idle: bool, attempts: int, draining: bool, unbilled_us: int
) -> pb.Heartbeat:
    """What the runner shows of itself; `unbilled_us` are pictures that nobody asked for."""
    return pb.Heartbeat(
        sample=sample(seen),
        resident_models=engine.models,
        step_costs=step_costs(engine.step_costs),
        fixed_costs=fixed_costs(engine.fixed_costs),
        attempts=attempts,
        engine_idle=idle,
        slowdown=engine.slowdown,
        draining=draining,
        busy_us=engine.busy_us,
        attributed_us=engine.busy_us - engine.platform_us - unbilled_us,
    )
