from darkroom import ids
from darkroom.scheduler.domain import generation as domain
from darkroom.scheduler.store import queue
from tests.scheduler.store.conftest import TENANT, make
from tests.scheduler.store.placed import begin, own

NEEDS = {"m": queue.Needs(memory_bytes=100, load_us=200)}


async def first(database, *, window=64, models=NEEDS):
    return await queue.Queue(database, window=window).first(models)


async def test_an_empty_queue(database):
    assert await first(database) == []
    assert await first(database, models={}) == []


async def test_a_job_is_what_placement_needs(database):
    made = await make(database, priority=domain.Priority.BATCH, deadline_us=60_000_000)
    [job] = await first(database)
    assert (job.generation_id, job.tenant_id, job.model, job.shape) == (made.generation_id, TENANT, "m", "64x64")
    assert (job.priority, job.steps_total, job.work_us, job.attempt) == (3, 7, 5, 0)
    assert (job.fixed_us, job.encode_us) == (2, 3)
    assert (job.model_memory_bytes, job.model_load_us, job.last_runner_id) == (100, 200, "")
    assert 0 <= job.waited_s < 60
    assert job.deadline_s is not None
    assert 0 < job.deadline_s < 60


async def test_only_what_waits_for_these_models(database):
    fence = await own(database)
    running, waiting = await make(database), await make(database)
    await make(database, model="elsewhere")
    await make(database, deadline_us=1)  # too late to begin; the sweep ends it
    await begin(database, fence, running.generation_id)
    assert [job.generation_id for job in await first(database)] == [waiting.generation_id]


async def test_every_line_shows_its_first_few_whatever_the_others_hold(database):
    small = ids.new("ten")
    flood = [(await make(database)).generation_id for _ in range(9)]
    few = [(await make(database, tenant_id=small)).generation_id for _ in range(2)]
    urgent = (await make(database, priority=domain.Priority.INTERACTIVE)).generation_id
    seen = {job.generation_id for job in await first(database, window=3)}
    assert seen == {*flood[:3], *few, urgent}


async def test_a_line_begins_with_its_deadlines(database):
    await make(database)
    late = await make(database, deadline_us=120_000_000)
    soon = await make(database, deadline_us=60_000_000)
    jobs = await first(database, window=2)
    assert [job.generation_id for job in jobs] == [soon.generation_id, late.generation_id]
