import datetime

import pytest

from darkroom import errors, ids, pricing
from darkroom.scheduler import poison
from darkroom.scheduler.domain import fleet
from darkroom.scheduler.domain import generation as domain
from darkroom.scheduler.store import attempts, generations
from tests.scheduler.store.conftest import TENANT, lease, make
from tests.scheduler.store.placed import POOL, begin, own, register

DONE = generations.End(
    state=domain.State.SUCCEEDED,
    usage=pricing.Quantities(images=1),
    charge_nanos=4,
    stages={"denoise_us": 9, "queued_us": 1_000_000_000},
)


def again(generation, solo):
    return poison.Verdict("", suspect=True, solo_deaths=generation.solo_deaths + solo)


def for_good(generation, solo):
    return poison.Verdict(poison.POISONED, suspect=True, solo_deaths=3)


async def row(database, generation_id):
    return await database.fetchrow("SELECT * FROM generation WHERE generation_id = $1", generation_id)


async def ends(database, generation_id):
    rows = await database.fetch(
        "SELECT end_reason FROM attempt WHERE generation_id = $1 ORDER BY attempt", generation_id
    )
    return [row["end_reason"] for row in rows]


async def states(database, generation_id):
    rows = await database.fetch(
        "SELECT state FROM generation_event WHERE generation_id = $1 ORDER BY sequence", generation_id
    )
    return [row["state"] for row in rows]


async def test_beginning_writes_the_attempt_its_event_and_its_decision(database):
    made, fence = await make(database), await own(database)
    [key] = await begin(database, fence, made.generation_id)
    assert key == (made.generation_id, fence.epoch, 1)
    running = await row(database, made.generation_id)
    assert (running["state"], running["pool"], running["runner_id"]) == ("RUNNING", POOL, "run_a")
    assert running["expected_finish_at"] > running["started_at"]
    assert await states(database, made.generation_id) == ["QUEUED", "RUNNING"]
    [attempt] = await attempts.Attempts(database).running(POOL)
    assert attempt.aboard_us > 0
    assert attempt == fleet.Attempt(key, TENANT, "m", "run_a", False, 2, 5, 2, 7, 0, attempt.aboard_us)


async def test_only_what_waits_can_begin(database):
    made, fence = [await make(database) for _ in range(3)], await own(database)
    first, cancelled, third = (one.generation_id for one in made)
    await begin(database, fence, first)
    await generations.Generations(database).cancel(tenant_id=TENANT, generation_id=cancelled)
    keys = await begin(database, fence, first, cancelled, third, ids.new("gen"))
    assert [key.generation_id for key in keys] == [third]


async def test_two_owners_cannot_both_begin_one_generation(database):
    made, fence = await make(database), await own(database)
    assert len(await begin(database, fence, made.generation_id)) == 1
    assert await begin(database, fence, made.generation_id) == []


async def test_finishing_ends_the_attempt_and_settles_once(database):
    made, fence = await make(database), await own(database)
    [key] = await begin(database, fence, made.generation_id)
    store = attempts.Attempts(database)
    ended = await store.finish(fence, key, lambda generation: DONE)
    assert ended is not None
    assert (ended.state, ended.steps_done) == (domain.State.SUCCEEDED, 7)
    assert ended.stages is not None
    assert ended.stages["denoise_us"] == 9
    assert ended.stages["queued_us"] > 1_000_000_000  # the engine's waiting on top of the scheduler's
    assert "lost_us" not in ended.stages
    assert await ends(database, made.generation_id) == ["SUCCEEDED"]
    assert await lease(database) == (6, 0)
    assert await store.finish(fence, key, lambda generation: DONE) is None
    assert await lease(database) == (6, 0)
    assert await database.fetchval("SELECT count(*) FROM outbox") == 1


@pytest.mark.parametrize("wrong", [{"owner_epoch": 99}, {"attempt": 2}, {"generation_id": ids.new("gen")}])
async def test_a_key_that_is_not_current_changes_nothing(database, wrong):
    made, fence = await make(database), await own(database)
    [key] = await begin(database, fence, made.generation_id)
    before = dict(await row(database, made.generation_id))
    assert await attempts.Attempts(database).finish(fence, key._replace(**wrong), lambda generation: DONE) is None
    assert await attempts.Attempts(database).give_back(fence, [key._replace(**wrong)], reason="X", judge=again) == []
    assert dict(await row(database, made.generation_id)) == before


async def test_an_owner_that_was_replaced_can_write_nothing(database):
    made, other = await make(database), await make(database)
    old = await own(database, "replica-1", lease_s=0.0)
    [key] = await begin(database, old, made.generation_id)
    new = await own(database, "replica-2")
    assert new.epoch == old.epoch + 1
    store = attempts.Attempts(database)
    for write in (
        store.finish(old, key, lambda generation: DONE),
        store.give_back(old, [key], reason="RUNNER_FAULT", judge=again),
        store.lose_runner(old, "run_a", judge=again),
        begin(database, old, other.generation_id),
    ):
        with pytest.raises(errors.Aborted, match="another replica"):
            await write
    assert (await row(database, made.generation_id))["state"] == "RUNNING"
    assert (
        await store.finish(new, key, lambda generation: DONE) is not None
    )  # the new owner takes the old attempt's end


async def test_given_back_work_waits_again_and_says_why(database):
    made, fence = await make(database), await own(database)
    [key] = await begin(database, fence, made.generation_id)
    store = attempts.Attempts(database)
    await store.progress([attempts.Step(key, 3, 1_000)])
    [moved] = await store.give_back(fence, [key], reason="RUNNER_FAULT", judge=again)
    assert (moved.state, moved.suspect, moved.steps_done, moved.pool) == (domain.State.QUEUED, True, 0, None)
    assert await ends(database, made.generation_id) == ["RUNNER_FAULT"]
    assert await lease(database) == (0, 10)  # still reserved
    [second] = await begin(database, fence, made.generation_id, suspect=True)
    assert second.attempt == 2
    [attempt] = await store.running(POOL)
    assert attempt.solo
    assert await states(database, made.generation_id) == ["QUEUED", "RUNNING", "QUEUED", "RUNNING"]


async def test_a_lost_runner_never_comes_back_and_its_work_is_judged(database):
    made, fence = [await make(database) for _ in range(2)], await own(database)
    registration = await register(database, "run_a")
    keys = await begin(database, fence, *(one.generation_id for one in made))
    await attempts.Attempts(database).progress([attempts.Step(keys[0], 3, 1_000)])
    moved = await attempts.Attempts(database).lose_runner(fence, "run_a", judge=again)
    assert {one.generation_id for one in moved} == {one.generation_id for one in made}
    with pytest.raises(AssertionError):
        await register(database, **registration._asdict())


async def test_poison_ends_for_good_and_is_free(database):
    made, fence = await make(database), await own(database)
    [key] = await begin(database, fence, made.generation_id)
    [ended] = await attempts.Attempts(database).give_back(fence, [key], reason="RUNNER_LOST", judge=for_good)
    assert ended.state is domain.State.FAILED
    assert ended.error is not None
    assert (ended.error["reason"], ended.error["retryable"]) == ("POISONED", False)
    assert await lease(database) == (10, 0)


async def test_what_was_cancelled_aboard_a_lost_runner_is_not_run_again(database):
    made, fence = await make(database), await own(database)
    [key] = await begin(database, fence, made.generation_id)
    await generations.Generations(database).cancel(tenant_id=TENANT, generation_id=made.generation_id)
    [ended] = await attempts.Attempts(database).lose_runner(fence, "run_a", judge=again)
    assert ended.state is domain.State.CANCELLED
    assert key.attempt == ended.attempt


async def test_cancelled_and_late_attempts_are_due(database):
    fence = await own(database)
    late, cancelled, fine = (
        await make(database, deadline_us=1),
        await make(database),
        await make(database, deadline_us=60_000_000),
    )
    await begin(database, fence, late.generation_id, cancelled.generation_id, fine.generation_id)
    await generations.Generations(database).cancel(tenant_id=TENANT, generation_id=cancelled.generation_id)
    due = await attempts.Attempts(database).due(POOL)
    assert {one.key.generation_id for one in due} == {late.generation_id, cancelled.generation_id}


async def test_progress_of_an_attempt_that_is_not_current_is_dropped(database):
    made, fence = await make(database), await own(database)
    [key] = await begin(database, fence, made.generation_id)
    store = attempts.Attempts(database)
    await store.progress([attempts.Step(key, 3, 1_000), attempts.Step(key._replace(attempt=7), 6, 1_000)])
    assert (await row(database, made.generation_id))["steps_done"] == 3


async def test_stages_and_what_was_lost_add_up_to_the_whole_time(database):
    made, fence = await make(database), await own(database)
    store = attempts.Attempts(database)
    [key] = await begin(database, fence, made.generation_id)
    # The first attempt ran for an hour, of which its checkpoint counts half.
    await database.execute("UPDATE generation SET created_at = created_at - interval '1 hour'")
    await database.execute("UPDATE attempt SET started_at = started_at - interval '1 hour'")
    await store.give_back(fence, [key], reason="RUNNER_LOST", judge=again)
    [key] = await begin(database, fence, made.generation_id)
    stages = {"queued_us": 1_000_000, "denoise_us": 1_799_000_000}
    ended = await store.finish(fence, key, lambda generation: DONE._replace(stages=stages))
    assert ended is not None
    assert ended.stages is not None
    assert 1_800_000_000 <= ended.stages["lost_us"] < 1_860_000_000
    whole_us = (ended.finished_at - ended.created_at) // datetime.timedelta(microseconds=1)
    assert sum(ended.stages.values()) == pytest.approx(whole_us, abs=1_000_000)


async def test_all_waits_are_summed(database):
    made, fence = await make(database), await own(database)
    store = attempts.Attempts(database)
    [key] = await begin(database, fence, made.generation_id)
    # The first attempt ran for an hour, which is no waiting.
    await database.execute("UPDATE generation SET created_at = created_at - interval '1 hour'")
    await database.execute("UPDATE attempt SET started_at = started_at - interval '1 hour'")
    await store.give_back(fence, [key], reason="RUNNER_FAULT", judge=again)
    [key] = await begin(database, fence, made.generation_id)
    ended = await store.finish(fence, key, lambda generation: DONE._replace(stages=None))
    assert ended is not None
    assert ended.stages is not None
    assert 0 < ended.stages["queued_us"] < 60_000_000
