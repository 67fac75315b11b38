import pytest

from darkroom import ids
from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.api.scheduler.v1 import generation_pb2
from darkroom.scheduler.fakes import results
from darkroom.scheduler.loop import kept
from tests.scheduler import stage
from tests.scheduler.conftest import eventually
from tests.scheduler.loop.test_tenure import tenure
from tests.scheduler.store.conftest import database, make
from tests.scheduler.store.placed import begin, own

__all__ = ["database"]  # the fixture


async def test_a_dead_runners_work_goes_on_elsewhere_from_its_newest_checkpoint(idle_room):
    await idle_room.start(**stage.QUICK, progress_interval_s=0.05)
    tenant = await idle_room.tenant()
    async with stage.runners(idle_room, "node-a") as [first]:
        first.behaviour.step_s, first.behaviour.checkpoint_steps = 0.1, 3
        made = await tenant.create(image=stage.image(steps=50))
        await eventually(lambda: _is(tenant, made.generation_id, lambda one: one.steps_done >= 7))
        async with stage.runners(idle_room, "node-b") as [second]:
            await first.die()
            done = await stage.until(tenant, made.generation_id)
        [assign] = second.assigned
        step = assign.checkpoint.step
        assert step >= 6
        assert assign.checkpoint == results.checkpoint(first.assigned[0], step)
        assert (done.state, done.attempts, done.resumed_step) == (stage.SUCCEEDED, 2, step)
        one, two = await stage.decisions(tenant, made.generation_id)
        assert (one.resumed_step, two.resumed_step, two.previous_attempt_end) == (0, step, "RUNNER_LOST")
        assert (done.usage.steps, done.usage.gpu_time_us) == (50, 50 * results.STEP_US)
        await stage.settled(idle_room, 1)
    assert await idle_room.database.fetchval("SELECT checkpoint FROM generation") is None
    forgotten = "SELECT count(*) FROM discarded_checkpoint"  # media_store is away here: they wait for it
    assert await idle_room.database.fetchval(forgotten) == step // 3


async def test_of_those_told_while_the_database_was_busy_the_newest_stays_and_the_others_may_go(
    database, service_secret
):
    fence = await own(database)
    [key] = await begin(database, fence, (await make(database)).generation_id)
    held = kept.Kept(tenure(database, service_secret, fence))
    told = [pb.Checkpoint(key=pb.AttemptKey(**key._asdict()), media_id=ids.new("med"), step=step) for step in (1, 2, 2)]
    for checkpoint in told:
        held.note(checkpoint)
    assert await held.commit(key)
    assert not await held.commit(key)
    stored = await database.fetchval("SELECT checkpoint ->> 'media_id' FROM generation")
    assert stored == told[1].media_id
    gone = await database.fetch("SELECT media_id FROM discarded_checkpoint")
    assert {row["media_id"] for row in gone} == {told[0].media_id, told[2].media_id}


async def test_what_is_put_aside_goes_on_and_counts_as_no_fault(idle_room):
    await idle_room.start(attempts_max=2, progress_interval_s=0.05)
    tenant = await idle_room.tenant()
    async with stage.runners(idle_room, "node-a") as [runner]:
        runner.behaviour.step_s, runner.behaviour.checkpoint_steps = 0.05, 1
        made = await tenant.create(image=stage.image(steps=100))
        steps = 0
        for attempt in (1, 2, 3):
            await eventually(
                lambda a=attempt, s=steps: _is(tenant, made.generation_id, lambda one: _went_on(one, a, s))
            )
            steps = (await tenant.get(made.generation_id)).steps_done
            runner.suspend_all()
        runner.behaviour.step_s = 0.0
        done = await stage.until(tenant, made.generation_id)
        assert (done.state, done.attempts, done.usage.steps) == (stage.SUCCEEDED, 4, 100)
        told = await stage.decisions(tenant, made.generation_id)
        assert [one.previous_attempt_end for one in told] == ["", *["SUSPENDED"] * 3]
        assert [one.resumed_step for one in told] == sorted({one.resumed_step for one in told})
        await eventually(lambda: _true(len(runner.acknowledged) == 4))
        assert not any(assign.solo for assign in runner.assigned)


@pytest.mark.parametrize("how", ["suspended", "failed"])
async def test_runners_that_drain_cost_no_attempt(idle_room, how):
    await idle_room.start(**stage.QUICK, attempts_max=2)
    tenant = await idle_room.tenant()
    async with stage.runners(idle_room, "node-a", "node-b", "node-c", "node-d") as runners:
        for runner in runners:
            runner.behaviour.step_s = 1.0
        made = await tenant.create(image=stage.image(steps=50))
        for count in (1, 2, 3):
            await eventually(lambda n=count: _is(tenant, made.generation_id, lambda one: one.attempts == n))
            running = await tenant.get(made.generation_id)
            [holder] = [runner for runner in runners if runner.runner_id == running.runner_id]
            await eventually(lambda one=holder: _true(one.aboard()))
            holder.behaviour.draining = True
            await eventually(lambda n=count: _draining(idle_room, n))
            if how == "suspended":  # before it began: there is no checkpoint
                holder.suspend_all()
            else:
                error = generation_pb2.GenerationError(reason="RUNNER_DRAINING")
                holder.answer(pb.WorkResponse(failed=pb.Failed(key=holder.assigned[-1].key, error=error)))
        await eventually(lambda: _is(tenant, made.generation_id, lambda one: one.attempts == 4))
        told = await stage.decisions(tenant, made.generation_id)
        assert [one.previous_attempt_end for one in told] == ["", *["SUSPENDED"] * 3]


async def _draining(room, count):
    heard = "SELECT count(*) FROM runner WHERE (status -> 'heartbeat' ->> 'draining')::bool"
    return await room.database.fetchval(heard) == count


def _went_on(one, attempt, steps):
    told = attempt == 1 or one.resumed_step > 0
    return one.attempts == attempt and one.steps_done > steps and one.state == stage.RUNNING and told


async def _is(tenant, generation_id, holds):
    return holds(await tenant.get(generation_id))


async def _true(holds):
    return holds
