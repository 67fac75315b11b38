import asyncio
import hashlib

from darkroom import ids
from darkroom.api.model_runner.v1 import runner_service_pb2 as work_pb
from darkroom.scheduler.fakes import results
from tests.scheduler import stage
from tests.scheduler.conftest import MODEL, eventually


async def test_a_generation_is_placed_run_charged_and_acknowledged(room, tenant):
    async with stage.runners(room, "node-a") as [runner]:
        made = await tenant.create(image=stage.image(seed=7, num_images=2))
        done = await stage.until(tenant, made.generation_id)
        assert done.state == stage.SUCCEEDED
        assert (done.attempts, done.runner_id, done.steps_done, done.steps_total) == (1, runner.runner_id, 20, 20)
        assert [one.sha256 for one in done.artifacts] == [
            hashlib.sha256(f"a red circle:{seed}".encode()).hexdigest() for seed in (7, 8)
        ]
        assert (done.usage.gpu_time_us, done.usage.images, done.usage.pixels) == (20_000, 2, 8192)
        assert done.stages.denoise_us == 20_000
        assert done.stages.queued_us > 0
        [assign] = runner.assigned
        assert (assign.tenant_id, assign.model, assign.image.seed) == (tenant.tenant_id, MODEL, 7)
        await eventually(lambda: _true(len(runner.acknowledged) == 1))
        await stage.settled(room, 1)
        # Two images and 0.02 s: 2 x 1,000,000 + 0.02 x 10,000,000.
        assert await room.database.fetchval("SELECT spent_nanos FROM spending_lease") == 2_200_000


async def test_a_request_that_is_at_fault_fails_at_once_and_is_free(room, tenant):
    async with stage.runners(room, "node-a") as [runner]:
        runner.behaviour.refuses = "bad adapter"
        made = await tenant.create(image=stage.image("a bad adapter"))
        done = await stage.until(tenant, made.generation_id)
        assert (done.state, done.attempts, done.error.reason) == (stage.FAILED, 1, "ADAPTER_INVALID")
        await stage.settled(room, 1)
        assert await room.database.fetchval("SELECT spent_nanos FROM spending_lease") == 0


async def test_a_runners_own_fault_is_tried_again_elsewhere_first(room, tenant):
    async with stage.runners(room, "node-a", "node-b") as both:
        await stage.all_ready(room, 2)
        first = min(both, key=lambda one: one.runner_id)  # equals: the first id is chosen
        first.behaviour.fails_over = "circle"
        made = await tenant.create()
        done = await stage.until(tenant, made.generation_id)
        assert (done.state, done.attempts) == (stage.SUCCEEDED, 2)
        one, two = await stage.decisions(tenant, made.generation_id)
        assert one.runner_id == first.runner_id
        assert two.runner_id != first.runner_id
        assert two.previous_attempt_end == "RUNNER_FAULT"


async def test_runner_faults_end_after_five_attempts_free(room, tenant):
    async with stage.runners(room, "node-a") as [runner]:
        runner.behaviour.fails_over = "circle"
        made = await tenant.create()
        done = await stage.until(tenant, made.generation_id)
        assert (done.state, done.attempts, done.error.reason) == (stage.FAILED, 5, "RUNNER_FAULT")
        assert done.error.retryable
        await stage.settled(room, 1)


async def test_a_cancel_ends_work_within_a_step(room, tenant):
    async with stage.runners(room, "node-a") as [runner]:
        runner.behaviour.waits_over = "endless"
        made = await tenant.create(image=stage.image("an endless circle"))
        await stage.until(tenant, made.generation_id, stage.RUNNING)
        await eventually(lambda: _true(bool(runner.aboard())))
        await stage.cancel(tenant, made.generation_id)
        done = await stage.until(tenant, made.generation_id)
        assert (done.state, done.error.reason) == (stage.CANCELLED, "CANCELLED")
        assert done.usage.steps > 0
        assert runner.aboard() == []
        await stage.settled(room, 1)
        assert await room.database.fetchval("SELECT spent_nanos FROM spending_lease") == 0


async def test_a_runner_that_ignores_a_cancel_is_overruled(idle_room):
    await idle_room.start(cancel_grace_s=0.2)
    tenant = await idle_room.tenant()
    async with stage.runners(idle_room, "node-a") as [runner]:
        runner.behaviour.waits_over, runner.behaviour.deaf = "endless", True
        made = await tenant.create(image=stage.image("an endless circle"))
        await stage.until(tenant, made.generation_id, stage.RUNNING)
        await stage.cancel(tenant, made.generation_id)
        assert (await stage.until(tenant, made.generation_id)).state == stage.CANCELLED


async def test_a_deadline_ends_running_work(room, tenant):
    async with stage.runners(room, "node-a") as [runner]:
        await stage.all_ready(room, 1)
        runner.behaviour.waits_over = "endless"
        made = await tenant.create(
            image=stage.image("an endless circle"), deadline={"seconds": 1, "nanos": 500_000_000}
        )
        await stage.until(tenant, made.generation_id, stage.RUNNING)
        done = await stage.until(tenant, made.generation_id)
        assert (done.state, done.error.reason) == (stage.CANCELLED, "DEADLINE_EXCEEDED")
        await stage.settled(room, 1)


async def test_progress_reaches_the_row(idle_room):
    await idle_room.start(progress_interval_s=0.05)
    tenant = await idle_room.tenant()
    async with stage.runners(idle_room, "node-a") as [runner]:
        runner.behaviour.waits_over = "endless"
        made = await tenant.create(image=stage.image("an endless circle"))
        await eventually(lambda: _is(tenant, made.generation_id, lambda one: one.steps_done == 10))
        running = await tenant.get(made.generation_id)
        assert running.state == stage.RUNNING
        assert running.HasField("expected_finish_at")


async def test_a_dead_runners_work_is_run_alone_elsewhere(idle_room):
    await idle_room.start(**stage.QUICK)
    tenant = await idle_room.tenant()
    async with stage.runners(idle_room, "node-a") as [first]:
        first.behaviour.waits_over = "circle"
        made = [await tenant.create() for _ in range(3)]
        await eventually(lambda: _true(len(first.aboard()) == 3))
        async with stage.runners(idle_room, "node-b") as [second]:
            await first.die()
            for one in made:
                done = await stage.until(tenant, one.generation_id)
                assert (done.state, done.attempts, done.runner_id) == (stage.SUCCEEDED, 2, second.runner_id)
                decision = (await stage.decisions(tenant, one.generation_id))[1]
                assert decision.previous_attempt_end == "RUNNER_LOST"
                assert "alone, since a runner died with it aboard" in decision.summary
            assert second.most_aboard == 1
            assert all(assign.solo for assign in second.assigned)
        await stage.settled(idle_room, 3)


async def test_a_frozen_runner_is_lost_and_what_it_says_later_changes_nothing(idle_room):
    await idle_room.start(**stage.QUICK)
    tenant = await idle_room.tenant()
    async with stage.runners(idle_room, "node-a") as [frozen]:
        frozen.behaviour.waits_over = "circle"
        made = await tenant.create()
        await eventually(lambda: _true(bool(frozen.aboard())))
        frozen.behaviour.frozen = True
        async with stage.runners(idle_room, "node-b") as [second]:
            done = await stage.until(tenant, made.generation_id)
            assert (done.state, done.runner_id) == (stage.SUCCEEDED, second.runner_id)
        await stage.settled(idle_room, 1)


async def test_a_stale_completion_is_acknowledged_and_changes_nothing(room, tenant):
    async with stage.runners(room, "node-a") as [runner]:
        runner.behaviour.waits_over = "endless"
        made = await tenant.create(image=stage.image("an endless circle"))
        await eventually(lambda: _true(bool(runner.aboard())))
        [assign] = runner.assigned
        for generation_id, epoch, attempt in (
            (made.generation_id, assign.key.owner_epoch, 2),
            (made.generation_id, assign.key.owner_epoch - 1, 1),
            (made.generation_id, assign.key.owner_epoch + 1, 1),
            (ids.new("gen"), assign.key.owner_epoch, 1),
        ):
            key = work_pb.AttemptKey(generation_id=generation_id, owner_epoch=epoch, attempt=attempt)
            completed = results.completed(assign)
            completed.key.CopyFrom(key)
            runner.answer(work_pb.WorkResponse(completed=completed))
        await eventually(lambda: _true(len(runner.acknowledged) == 4))
        assert (await tenant.get(made.generation_id)).state == stage.RUNNING
        assert await room.database.fetchval("SELECT count(*) FROM outbox WHERE kind = 'OUTCOME'") == 0


async def test_a_broken_stream_is_no_death(room, tenant):
    async with stage.runners(room, "node-a") as [runner]:
        runner.behaviour.waits_over = "circle"
        made = await tenant.create()
        await eventually(lambda: _true(bool(runner.aboard())))
        runner.break_stream()
        runner.behaviour.waits_over = "\0"
        done = await stage.until(tenant, made.generation_id)
        assert (done.state, done.attempts) == (stage.SUCCEEDED, 1)
        await stage.settled(room, 1)


async def test_what_a_runner_no_longer_lists_is_placed_again(room, tenant):
    async with stage.runners(room, "node-a") as [runner]:
        runner.behaviour.waits_over = "circle"
        made = await tenant.create()
        await eventually(lambda: _true(bool(runner.aboard())))
        runner.behaviour.waits_over = "\0"
        runner.forget()
        runner.break_stream()
        done = await stage.until(tenant, made.generation_id)
        assert (done.state, done.attempts) == (stage.SUCCEEDED, 2)


async def test_poison_is_found_by_running_alone_and_hurts_no_neighbour(idle_room):
    await idle_room.start(**stage.QUICK)
    tenant = await idle_room.tenant()
    async with stage.runners(idle_room, "node-a") as [first]:
        first.behaviour.waits_over = "circle"
        first.behaviour.dies_over = "poison"
        mates = [await tenant.create() for _ in range(3)]
        await eventually(lambda: _true(len(first.aboard()) == 3))
        poison = await tenant.create(image=stage.image("a poison circle"))
        await eventually(lambda: _true(first.dead))
        deaths = 1
        while (await tenant.get(poison.generation_id)).state not in stage.FINAL:
            async with stage.runners(idle_room, f"node-{deaths}") as [runner]:
                runner.behaviour.dies_over = "poison"
                await eventually(lambda: _ended_or_dead(tenant, poison.generation_id, runner))
                deaths += 1
        convicted = await tenant.get(poison.generation_id)
        assert (convicted.state, convicted.error.reason, convicted.attempts) == (stage.FAILED, "POISONED", 4)
        async with stage.runners(idle_room, "node-z"):
            for mate in mates:
                assert (await stage.until(tenant, mate.generation_id)).state == stage.SUCCEEDED
        await stage.settled(idle_room, 4)


async def test_work_goes_where_others_do_not_use_the_device(room, tenant):
    async with stage.runners(room, "node-a", "node-b") as both:
        busy, free = sorted(both, key=lambda one: one.runner_id)
        busy.behaviour.utilization_percent = 90
        await stage.all_ready(room, 2)
        made = await tenant.create()
        done = await stage.until(tenant, made.generation_id)
        assert done.runner_id == free.runner_id
        [decision] = await stage.decisions(tenant, made.generation_id)
        assert decision.summary == (
            f"{free.runner_id} on {free.node}: predicted 0.01 s; "
            f"{busy.runner_id} on {busy.node} was slower: 90 % of its device is used by others"
        )
        assert [one.foreign_utilization for one in decision.candidates] == [0.0, 0.9]


async def test_a_faulty_device_gets_nothing_more_and_its_work_moves(room, tenant):
    async with stage.runners(room, "node-a", "node-b") as both:
        await stage.all_ready(room, 2)
        first, second = sorted(both, key=lambda one: one.runner_id)
        first.behaviour.waits_over = "circle"
        made = await tenant.create()
        await eventually(lambda: _true(bool(first.aboard())))
        first.behaviour.healthy = False
        done = await stage.until(tenant, made.generation_id)
        assert (done.state, done.runner_id) == (stage.SUCCEEDED, second.runner_id)
        await eventually(lambda: _true(first.aboard() == []))  # it was told to stop
        again = await tenant.create()
        assert (await stage.until(tenant, again.generation_id)).runner_id == second.runner_id
        [decision] = await stage.decisions(tenant, again.generation_id)
        assert decision.rejections == {"quarantined": 1}


async def test_a_draining_runner_finishes_and_takes_no_more(room, tenant):
    async with stage.runners(room, "node-a") as [runner]:
        runner.behaviour.waits_over = "endless"
        endless = await tenant.create(image=stage.image("an endless circle"))
        await eventually(lambda: _true(bool(runner.aboard())))
        runner.behaviour.draining = True
        await eventually(lambda: _drains(room))
        waiting = await tenant.create()
        async with stage.runners(room, "node-b") as [other]:
            assert (await stage.until(tenant, waiting.generation_id)).runner_id == other.runner_id
        assert (await tenant.get(endless.generation_id)).state == stage.RUNNING


async def test_one_tenants_flood_does_not_keep_another_waiting(idle_room):
    await idle_room.start(runner_attempts_max=1)
    flood, other = await idle_room.tenant(), await idle_room.tenant()
    for _ in range(20):
        await flood.create()
    few = [await other.create() for _ in range(3)]
    async with stage.runners(idle_room, "node-a") as [runner]:
        for one in few:
            await stage.until(other, one.generation_id)
        tenants = [assign.tenant_id for assign in runner.assigned][:6]
        assert tenants.count(other.tenant_id) == 3


async def test_a_runner_holds_only_so_many(idle_room):
    await idle_room.start(runner_attempts_max=2)
    tenant = await idle_room.tenant()
    made = [await tenant.create() for _ in range(6)]
    async with stage.runners(idle_room, "node-a") as [runner]:
        await asyncio.gather(*(stage.until(tenant, one.generation_id) for one in made))
        assert runner.most_aboard == 2


async def _true(value):
    return value


async def _is(tenant, generation_id, holds):
    return holds(await tenant.get(generation_id))


async def _ended_or_dead(tenant, generation_id, runner):
    return runner.dead or (await tenant.get(generation_id)).state in stage.FINAL


async def _drains(room):
    return await room.database.fetchval("SELECT count(*) FROM runner WHERE draining") == 1
