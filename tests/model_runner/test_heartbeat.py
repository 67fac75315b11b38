"""What a runner tells of itself is what it saw and measured."""

import datetime

from darkroom.model_runner import heartbeat, nvml
from darkroom.model_runner.engine import job as engine_job
from darkroom.model_runner.fixed_cost import FixedCost
from darkroom.model_runner.step_cost import Shape, StepCost


def test_a_device_is_told_as_it_is() -> None:
    told = heartbeat.device(nvml.DeviceIdentity("NVIDIA H200", "GPU-1", 141, "550"))
    assert (told.product, told.uuid, told.memory_bytes, told.driver_version) == ("NVIDIA H200", "GPU-1", 141, "550")


def test_what_a_device_does_not_answer_stays_unset() -> None:
    at = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    seen = nvml.DeviceSample(
        sampled_at=at,
        utilization_percent=0,
        processes=(nvml.GpuProcess(1, None, True), nvml.GpuProcess(2, None, False)),
        unhealthy_reason="it burns",
    )
    told = heartbeat.sample(seen)
    assert told.sampled_at.ToDatetime(datetime.UTC) == at
    assert told.HasField("utilization_percent")
    assert not told.HasField("power_mw")
    assert (told.foreign_processes, told.healthy, told.unhealthy_reason) == (1, False, "it burns")


def test_guided_and_unguided_steps_are_told_apart() -> None:
    costs = [
        StepCost(Shape("m", "64x32", True, 2), 900, 5),
        StepCost(Shape("m", "64x32", False, 2), 500, 5),
        StepCost(Shape("m", "64x32", False, 1), 300, 5),
        StepCost(Shape("m", "64x32", False, 1, "edit"), 600, 5),
    ]
    told = {(cost.shape, cost.guided, cost.rows): cost.step_us for cost in heartbeat.step_costs(costs)}
    assert told == {("64x32", True, 2): 900, ("64x32", False, 2): 500, ("64x32", False, 1): 600}


def test_tiers_have_step_costs_of_their_own_at_their_average() -> None:
    costs = [
        StepCost(Shape("m", "64x64", True, 1, "text"), 100, 3),
        StepCost(Shape("m", "64x64", True, 1, "edit draft"), 100, 3, 0.4),
        StepCost(Shape("m", "64x64", True, 1, "text high"), 60, 3),
    ]
    told = {cost.shape: cost.step_us for cost in heartbeat.step_costs(costs)}
    assert told == {"64x64": 100, "64x64 draft": 40, "64x64 high": 60}


def test_a_heartbeat_counts_no_trial_as_anybodys_work() -> None:
    engine = engine_job.Snapshot(
        busy_us=1000,
        platform_us=300,
        jobs_waiting=0,
        rows_live=0,
        models=("m",),
        step_costs=(),
        slowdown=1.5,
        fixed_costs=(FixedCost("m", "64x64", 1, 2, 3),),
    )
    seen = nvml.DeviceSample(sampled_at=datetime.datetime.now(datetime.UTC))
    told = heartbeat.beat(seen, engine, idle=True, attempts=3, draining=True, unbilled_us=50)
    assert (told.busy_us, told.attributed_us) == (1000, 650)
    assert (told.engine_idle, told.attempts, told.draining, told.slowdown) == (True, 3, True, 1.5)
    assert list(told.resident_models) == ["m"]
    (fixed,) = told.fixed_costs
    assert (fixed.model, fixed.shape, fixed.prepare_us, fixed.decode_us, fixed.encode_us) == ("m", "64x64", 1, 2, 3)
    assert told.sample.healthy
