import dataclasses

import pytest

from darkroom import pricing
from darkroom.scheduler import poison
from darkroom.scheduler.domain import fleet
from darkroom.scheduler.domain import generation as domain
from darkroom.scheduler.store import attempts, checkpoints, explain, generations, queue
from tests.scheduler.store.conftest import TENANT, counted, make
from tests.scheduler.store.placed import DECISION, begin, job, own

USED = dataclasses.asdict(pricing.Quantities(gpu_time_us=30, steps=3))


def at(key, step, media_id=""):
    return fleet.Checkpoint(key, media_id or f"med_{step}", step, USED)


def again(generation, solo):
    return poison.Verdict("", suspect=False, solo_deaths=0, forgiven=True)


async def kept(database, key):
    return await generations.Generations(database).get(tenant_id=TENANT, generation_id=key.generation_id)


async def discarded(database):
    return {one.media_id for one in await checkpoints.Checkpoints(database).due(limit=10, again_s=0.0)}


async def test_the_newest_is_kept_and_the_others_may_go(database):
    [key] = await begin(database, await own(database), (await make(database)).generation_id)
    store = checkpoints.Checkpoints(database)
    assert [await store.keep(at(key, step)) for step in (2, 3, 1, 3)] == [True, True, False, False]
    assert checkpoints.read(await kept(database, key)) == at(key, 3)
    assert await discarded(database) == {"med_2", "med_1"}


async def test_what_a_later_version_counts_besides_is_left_out(database):
    [key] = await begin(database, await own(database), (await make(database)).generation_id)
    later = at(key, 3)._replace(usage={**USED, "later": 1})
    await checkpoints.Checkpoints(database).keep(later)
    assert checkpoints.read(await kept(database, key)) == at(key, 3)


async def test_one_that_is_told_again_stays(database):
    fence = await own(database)
    [key] = await begin(database, fence, (await make(database)).generation_id)
    store = checkpoints.Checkpoints(database)
    for _ in range(2):
        await store.keep(at(key, 3))
    await attempts.Attempts(database).give_back(fence, [key], reason=poison.SUSPENDED, judge=again)
    assert not await store.keep(at(key, 3))
    await begin(database, fence, key.generation_id)
    assert not await store.keep(at(key, 3))
    assert checkpoints.read(await kept(database, key)) == at(key, 3)
    assert await discarded(database) == set()


async def test_of_an_attempt_that_had_to_begin_anew_its_own_count(database):
    fence = await own(database)
    [first] = await begin(database, fence, (await make(database)).generation_id)
    store = checkpoints.Checkpoints(database)
    await store.keep(at(first, 5))
    await attempts.Attempts(database).lose_runner(fence, "run_a", judge=again)
    [second] = await begin(database, fence, first.generation_id)
    assert await store.keep(at(second, 2))
    assert checkpoints.read(await kept(database, second)) == at(second, 2)
    assert await discarded(database) == {"med_5"}


async def test_an_attempt_that_is_not_current_keeps_nothing(database):
    [key] = await begin(database, await own(database), (await make(database)).generation_id)
    for step, wrong in enumerate(({"owner_epoch": 99}, {"attempt": 2}, {"generation_id": "gen_other"})):
        assert not await checkpoints.Checkpoints(database).keep(at(key._replace(**wrong), step))
    assert checkpoints.read(await kept(database, key)) is None
    assert await discarded(database) == {"med_0", "med_1"}  # their bytes are of no use


async def test_one_that_is_told_after_the_end_may_go(database):
    fence = await own(database)
    [key] = await begin(database, fence, (await make(database)).generation_id)
    await attempts.Attempts(database).finish(fence, key, lambda _: generations.End(state=domain.State.SUCCEEDED))
    assert not await checkpoints.Checkpoints(database).keep(at(key, 3))
    assert await discarded(database) == {"med_3"}


async def test_the_next_attempt_is_given_it_and_what_is_left_to_do(database):
    fence = await own(database)
    [key] = await begin(database, fence, (await make(database)).generation_id)
    await checkpoints.Checkpoints(database).keep(at(key, 3))
    store = attempts.Attempts(database)
    [moved] = await store.give_back(fence, [key], reason=poison.SUSPENDED, judge=again)
    assert (moved.state, moved.steps_done, moved.suspensions) == (domain.State.QUEUED, 3, 1)
    [waiting] = await queue.Queue(database, window=9).first({"m": queue.Needs(1, 1)})
    assert (waiting.steps_kept, waiting.steps_total) == (3, 7)
    [begun] = await store.begin(fence, [fleet.Placement(job(key.generation_id), DECISION)])
    assert begun.checkpoint == at(key, 3)
    assert (await kept(database, key)).steps_done == 3


async def test_at_which_step_each_attempt_began_is_told(database):
    fence = await own(database)
    [first] = await begin(database, fence, (await make(database)).generation_id)
    store = attempts.Attempts(database)
    await checkpoints.Checkpoints(database).keep(at(first, 3))
    await store.lose_runner(fence, "run_a", judge=again)
    [second] = await begin(database, fence, first.generation_id)
    await store.progress([attempts.Step(second, 4, 1_000, resumed_step=3)])
    told = explain.Explain(database, seen_within_s=5.0)
    assert [one.resumed_step for one in await told.decisions(first.generation_id)] == [0, 3]
    assert (await kept(database, first)).resumed_step == 3
    await store.give_back(fence, [second], reason=poison.RUNNER_FAULT, judge=again)
    [third] = await begin(database, fence, first.generation_id)
    assert (await kept(database, first)).resumed_step == 0
    end = generations.End(state=domain.State.SUCCEEDED, resumed_step=5)
    await store.finish(fence, third, lambda generation: end)
    assert [one.resumed_step for one in await told.decisions(first.generation_id)] == [0, 3, 5]


async def test_at_the_end_it_may_go(database):
    fence = await own(database)
    [key] = await begin(database, fence, (await make(database)).generation_id)
    store = checkpoints.Checkpoints(database)
    await store.keep(at(key, 3))
    await attempts.Attempts(database).finish(fence, key, lambda _: generations.End(state=domain.State.SUCCEEDED))
    assert checkpoints.read(await kept(database, key)) is None
    [due] = await store.due(limit=10, again_s=60.0)
    assert due == ("med_3", TENANT, key.generation_id)
    assert await store.due(limit=10, again_s=60.0) == []  # taken, for a while
    await store.forget(["med_3"])
    assert await database.fetchval("SELECT count(*) FROM discarded_checkpoint") == 0


@pytest.mark.parametrize(("charging", "charge_nanos"), [((), 0), (("m",), 6)])
async def test_what_a_checkpoint_has_counted_is_charged_where_cancelled_work_is(database, charging, charge_nanos):
    fence = await own(database)
    store = attempts.Attempts(database, charging=charging)
    waiting = generations.Generations(database, charging=charging)
    ended = []
    for is_late in (False, True):
        made = await make(database, rates={"nanos_per_gpu_second": 200_000}, deadline_us=100_000_000)
        [key] = await begin(database, fence, made.generation_id)
        await checkpoints.Checkpoints(database).keep(at(key, 3))
        await store.give_back(fence, [key], reason=poison.SUSPENDED, judge=again)
        if is_late:
            await database.execute("UPDATE generation SET deadline = created_at WHERE state = 'QUEUED'")
            ended += await waiting.end_waiting(limit=9)
        else:
            ended.append(await waiting.cancel(tenant_id=TENANT, generation_id=made.generation_id))
    made = await make(database, rates={"nanos_per_gpu_second": 200_000})
    [key] = await begin(database, fence, made.generation_id)
    await checkpoints.Checkpoints(database).keep(at(key, 3))
    await waiting.cancel(tenant_id=TENANT, generation_id=made.generation_id)
    ended += await store.lose_runner(fence, "run_a", judge=again)
    assert [one.error["reason"] for one in ended] == ["CANCELLED", "DEADLINE_EXCEEDED", "CANCELLED"]
    assert {one.usage["steps"] for one in ended} == {3}
    assert await database.fetchval("SELECT spent_nanos FROM spending_lease") == 3 * charge_nanos


async def test_those_that_are_not_due_are_not_read(database):
    await database.execute(
        "INSERT INTO discarded_checkpoint SELECT 'med_' || number, 'ten_1', 'gen_1', clock_timestamp() + interval '1 hour'"
        " FROM generate_series(1, 40) number"
    )
    async with counted(database, "discarded_checkpoint") as one:
        assert await checkpoints.Checkpoints(one).due(limit=10, again_s=60.0) == []
        assert await one.rows_read() == 0
