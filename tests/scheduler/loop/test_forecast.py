import asyncio
import dataclasses

import pytest

from darkroom import catalog
from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.api.scheduler.v1 import generation_service_pb2
from darkroom.scheduler.domain import fleet
from darkroom.scheduler.domain import generation as domain
from darkroom.scheduler.fakes import results
from darkroom.scheduler.loop import forecast
from darkroom.scheduler.store import fleet as fleet_store
from tests.scheduler import stage
from tests.scheduler.conftest import CATALOGUE, MODEL, eventually, request
from tests.scheduler.store import placed

JOB = fleet.Job(
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
STOPPED_S = 1000.0  # for a step


@pytest.fixture
def expected(room):
    return forecast.Forecast(room.database, room.config(), catalog.load(room.catalog_dir))


async def test_it_knows_nothing_before_it_has_read(expected):
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
            runner.behaviour.step_s = STOPPED_S

        async def measured() -> bool:
            await expected.refresh()
            known = [kind.step_costs_us for kind in expected.accelerators(MODEL)]
            return known == [{"64x64": 250, "64x64 guided": 500}]  # the slowest

        await eventually(measured)
        (kind,) = expected.accelerators(MODEL)
        assert kind.fixed_costs == {"64x64": (500, 600, 7)}
        assert expected.runners(MODEL) == 2
        assert expected.wait_us(MODEL, domain.Priority.BATCH) == 0

        async def admission_knows() -> bool:
            wanted = generation_service_pb2.EstimateGenerationRequest(generation=request())
            told = await tenant.generations.EstimateGeneration(wanted)
            return [kind.work_us for kind in told.accelerators] == [6_100]

        await eventually(admission_knows)
        for priority in (domain.Priority.STANDARD, domain.Priority.STANDARD, domain.Priority.BATCH):
            made = await tenant.create(priority=priority)
            await stage.until(tenant, made.generation_id, stage.RUNNING)
        await expected.refresh()
        works = await room.database.fetch("SELECT priority, sum(work_us)::int AS us FROM generation GROUP BY priority")
        by_priority = {row["priority"]: row["us"] for row in works}
        assert expected.wait_us(MODEL, domain.Priority.INTERACTIVE) == 0
        assert expected.wait_us(MODEL, domain.Priority.STANDARD) == by_priority[2] // 2
        assert expected.wait_us(MODEL, domain.Priority.BATCH) == by_priority[2] // 2  # where the third is not aboard


async def test_admission_and_explain_predict_the_same_end(room, tenant, expected):
    assert expected.completion_us(JOB) is None
    async with stage.runners(room, "node-a") as (runner,):
        runner.behaviour.step_costs = [pb.StepCost(model=MODEL, shape="64x64", rows=1, step_us=300, guided=True)]
        runner.behaviour.fixed_costs = [
            pb.FixedCost(model=MODEL, shape="64x64", prepare_us=20, decode_us=50, encode_us=3)
        ]
        runner.behaviour.utilization_percent = 50
        runner.behaviour.resident = ()

        async def known() -> bool:
            await expected.refresh()
            return expected.completion_us(JOB) == 1_006_143  # load, text, steps and decoding on half of a device, file

        await eventually(known)

        async def admission_knows() -> bool:
            wanted = generation_service_pb2.EstimateGenerationRequest(generation=request())
            return (await tenant.generations.EstimateGeneration(wanted)).completion_us == 1_006_143

        await eventually(admission_knows)
        made = await tenant.create()
        await stage.until(tenant, made.generation_id)
        (decision,) = await stage.decisions(tenant, made.generation_id)
        assert decision.candidates[0].predicted_us == 1_006_143


MEASURED = [pb.StepCost(model=MODEL, shape="64x64", rows=1, step_us=300, guided=True)]
BESIDES = [pb.FixedCost(model=MODEL, shape="64x64", prepare_us=20, decode_us=50, encode_us=3)]


async def test_they_agree_of_a_fleet_at_work_too(room, tenant, expected):
    async with stage.runners(room, "node-a", "node-b") as both:
        for runner in both:
            runner.behaviour.step_costs, runner.behaviour.fixed_costs = MEASURED, BESIDES
            runner.behaviour.step_s = STOPPED_S

        async def told(completion_us) -> bool:
            await expected.refresh()
            wanted = generation_service_pb2.EstimateGenerationRequest(generation=request())
            answer = await tenant.generations.EstimateGeneration(wanted)
            return answer.completion_us == expected.completion_us(JOB) == completion_us

        await eventually(lambda: told(3_073))
        for _ in both:
            made = await tenant.create()
            await stage.until(tenant, made.generation_id, stage.RUNNING)
        (running,), (suspended,) = (runner.assigned for runner in both)  # one aboard each
        progress = pb.Progress(key=running.key, steps_done=8, steps_total=10)
        both[0].answer(pb.WorkResponse(progress=progress))
        await eventually(lambda: told(70 + 2 * 300 + 3_073))
        put_aside = pb.Suspended(key=suspended.key, checkpoint=results.checkpoint(suspended, 5))
        both[1].answer(pb.WorkResponse(suspended=put_aside))

        async def resumed() -> bool:
            return len(both[1].assigned) == 2 and both[1].assigned[-1].checkpoint.step == 5

        await eventually(resumed)
        both[0].answer(pb.WorkResponse(progress=pb.Progress(key=running.key, steps_done=3, steps_total=10)))
        await eventually(lambda: told(70 + 5 * 300 + 3_073))  # behind the one that goes on
        made = await tenant.create()
        await stage.until(tenant, made.generation_id, stage.RUNNING)
        (decision,) = await stage.decisions(tenant, made.generation_id)
        assert [one.predicted_us for one in decision.candidates] == [1_570 + 3_073, 70 + 7 * 300 + 3_073]


async def test_they_agree_while_a_model_is_being_loaded(idle_room, catalog_dir):
    slow = CATALOGUE.format(name=MODEL, extras="{}").replace("load_s_guess: 1.0", "load_s_guess: 1000.0")
    (catalog_dir / f"{MODEL}.yaml").write_text(slow)
    await idle_room.start()
    tenant = await idle_room.tenant()
    expected = forecast.Forecast(idle_room.database, idle_room.config(), catalog.load(catalog_dir))
    async with stage.runners(idle_room, "node-a") as (runner,):
        runner.behaviour.resident, runner.behaviour.step_s = (), STOPPED_S
        for _ in range(2):
            made = await tenant.create()
            await stage.until(tenant, made.generation_id, stage.RUNNING)
            await asyncio.sleep(0.1)  # the first has begun to load
        (decision,) = await stage.decisions(tenant, made.generation_id)
        await expected.refresh()
        for told_us in (decision.candidates[0].predicted_us, expected.completion_us(JOB)):
            assert 900_000_000 < told_us < 1_000_000_000  # what is left of one load, of which a moment has passed
        runner.behaviour.resident = None

        async def loaded() -> bool:
            await expected.refresh()
            return expected.completion_us(JOB) == 20_000 + 5_003  # steps as guessed

        await eventually(loaded)


async def test_what_waits_evens_out_what_is_aboard(idle_room):
    await idle_room.start(runner_attempts_max=1)
    tenant = await idle_room.tenant()
    expected = forecast.Forecast(idle_room.database, idle_room.config(), catalog.load(idle_room.catalog_dir))
    async with stage.runners(idle_room, "node-a", "node-b") as both:
        for runner in both:
            runner.behaviour.step_s = STOPPED_S
        for _ in both:
            made = await tenant.create()
            await stage.until(tenant, made.generation_id, stage.RUNNING)
        for steps, priority in ((4, domain.Priority.STANDARD), (40, domain.Priority.BATCH)):
            await tenant.create(image=stage.image(steps=steps), priority=priority)
        both[0].answer(pb.WorkResponse(progress=pb.Progress(key=both[0].assigned[0].key, steps_done=8, steps_total=10)))

        async def shared() -> bool:
            await expected.refresh()
            waits_us = [expected.wait_us(MODEL, priority) for priority in (1, 2, 3)]
            return waits_us == [0, 2_000 + 4_000, (2_000 + 4_000 + 40_000 + 10_000) // 2]

        await eventually(shared)


async def test_a_runner_is_as_fast_as_its_kind_until_it_has_measured(room, tenant, expected):
    async with stage.runners(room, "node-a", "node-b") as both:
        both[0].behaviour.step_costs = MEASURED

        async def known() -> bool:
            await expected.refresh()
            return expected.completion_us(JOB) == 3_073

        await eventually(known)
        await stage.all_ready(room, 2)
        made = await tenant.create()
        await stage.until(tenant, made.generation_id)
        (decision,) = await stage.decisions(tenant, made.generation_id)
        assert [one.predicted_us for one in decision.candidates] == [3_000, 3_000]
        larger = dataclasses.replace(JOB, shape="128x64 guided")
        assert expected.completion_us(larger) == 6_073


async def test_an_end_waits_for_what_is_there_already(room, tenant, expected):
    async with stage.runners(room, "node-a") as (runner,):
        runner.behaviour.step_s = STOPPED_S
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


async def test_what_a_later_replica_publishes_besides_is_left_out(idle_room):
    await idle_room.start(stream_grace_s=60.0)  # nobody answers at its address
    expected = forecast.Forecast(idle_room.database, idle_room.config(), {})
    runner = await placed.register(idle_room.database)
    status = {"heartbeat": {"resident_models": ["m"], "later": {"x": 1}, "sample": {"later": 1}}}
    await fleet_store.Fleet(idle_room.database).save_status({runner.runner_id: status})
    await expected.refresh()
    (kind,) = expected.accelerators("m")
    assert kind.is_resident
