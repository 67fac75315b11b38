import asyncio

import pytest

from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.api.scheduler.v1 import generation_service_pb2
from darkroom.scheduler.domain import fleet
from darkroom.scheduler.domain import generation as domain
from darkroom.scheduler.loop import forecast
from tests.scheduler import stage
from tests.scheduler.conftest import MODEL, eventually, request


@pytest.fixture
def expected(room):
    return forecast.Forecast(room.database, room.config())


async def test_it_knows_nothing_before_it_has_read(expected):
    assert expected.slowest(MODEL).step_costs_us == {}
    assert expected.accelerators(MODEL) == []
    assert expected.wait_us(MODEL, 2) is None
    assert expected.runners(MODEL) == 0


async def test_what_runners_measured_and_what_waits_is_known_on_any_replica(room, tenant, expected):
    async with stage.runners(room, "node-a", "node-b") as both:
        for runner, step_us in zip(both, (300, 500), strict=True):
            runner.behaviour.step_costs = [
                pb.StepCost(model=MODEL, shape="64x64", rows=1, step_us=step_us, guided=True),
                pb.StepCost(model=MODEL, shape="64x64", rows=1, step_us=step_us // 2),
            ]
            runner.behaviour.fixed_costs = [
                pb.FixedCost(model=MODEL, shape="64x64", prepare_us=step_us, decode_us=900 - step_us, encode_us=7)
            ]
            runner.behaviour.waits_over = "circle"

        async def measured() -> bool:
            await expected.refresh()
            return expected.slowest(MODEL).step_costs_us.get("64x64 guided") == 500  # the slowest

        await eventually(measured)
        slowest = expected.slowest(MODEL)
        assert slowest.step_costs_us == {"64x64": 250, "64x64 guided": 500}
        assert slowest.fixed_costs == {"64x64": (500, 600, 7)}
        (kind,) = expected.accelerators(MODEL)
        assert kind[2:] == slowest[2:]
        assert expected.runners(MODEL) == 2
        assert expected.wait_us(MODEL, domain.Priority.BATCH) == 0
        for priority in (domain.Priority.STANDARD, domain.Priority.STANDARD, domain.Priority.BATCH):
            await tenant.create(priority=priority)
        await expected.refresh()
        works = await room.database.fetch("SELECT priority, sum(work_us)::int AS us FROM generation GROUP BY priority")
        by_priority = {row["priority"]: row["us"] for row in works}
        assert expected.wait_us(MODEL, domain.Priority.INTERACTIVE) == 0
        assert expected.wait_us(MODEL, domain.Priority.STANDARD) == by_priority[2] // 2
        assert expected.wait_us(MODEL, domain.Priority.BATCH) == sum(by_priority.values()) // 2


async def test_admission_and_explain_predict_the_same_end(room, tenant, expected):
    job = fleet.Job(
        generation_id="gen_1",
        tenant_id="ten_1",
        model=MODEL,
        shape="64x64 guided",
        priority=domain.Priority.STANDARD,
        steps_total=10,
        work_us=5_000,
        fixed_us=70,
        encode_us=3,
        waited_s=0.0,
        model_load_us=1_000_000,
    )
    assert expected.completion_us(job) is None
    async with stage.runners(room, "node-a") as (runner,):
        runner.behaviour.step_costs = [pb.StepCost(model=MODEL, shape="64x64", rows=1, step_us=300, guided=True)]
        runner.behaviour.fixed_costs = [
            pb.FixedCost(model=MODEL, shape="64x64", prepare_us=20, decode_us=50, encode_us=3)
        ]
        runner.behaviour.utilization_percent = 50
        runner.behaviour.resident = ()

        async def known() -> bool:
            await expected.refresh()
            return expected.completion_us(job) == 1_006_143  # load, text, steps and decoding on half of a device, file

        await eventually(known)

        async def admission_knows() -> bool:
            wanted = generation_service_pb2.EstimateGenerationRequest(generation=request())
            return (await tenant.generations.EstimateGeneration(wanted)).completion_us == 1_006_143

        await eventually(admission_knows)
        made = await tenant.create()
        await stage.until(tenant, made.generation_id)
        (decision,) = await stage.decisions(tenant, made.generation_id)
        assert decision.candidates[0].predicted_us == 1_006_143


async def test_an_end_waits_for_what_is_there_already(room, tenant, expected):
    async with stage.runners(room, "node-a") as (runner,):
        runner.behaviour.waits_over = "circle"
        runner.behaviour.utilization_percent = 50
        made = await tenant.create()
        await stage.until(tenant, made.generation_id, stage.RUNNING)

        async def slowed() -> bool:
            await expected.refresh()
            return expected.wait_us(MODEL, domain.Priority.STANDARD) == 2 * 10_000  # 10 steps of 1 ms, guessed

        await eventually(slowed)
        assert expected.wait_us(MODEL, domain.Priority.INTERACTIVE) == 0


async def test_it_reads_again_by_itself(room, expected):
    task = asyncio.create_task(expected.run())
    async with stage.runners(room, "node-a"):

        async def seen() -> bool:
            return expected.runners(MODEL) == 1

        await eventually(seen)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
