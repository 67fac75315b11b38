import pytest

from darkroom import errors
from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.scheduler.config import Config
from darkroom.scheduler.domain import fleet
from darkroom.scheduler.loop import outcomes
from darkroom.scheduler.loop.tenure import Setup, Tenure
from darkroom.scheduler.store import bell
from tests.scheduler.store.conftest import database, make
from tests.scheduler.store.placed import DECISION, begin, job, own

__all__ = ["database"]  # the fixture


def tenure(database, service_secret, fence):
    config = Config(
        service_secret=service_secret,
        database_url="postgresql://unused",
        billing_meter_address="127.0.0.1:1",
        lora_store_address="127.0.0.1:1",
        media_store_address="127.0.0.1:1",
    )
    return Tenure(Setup(config, database, {}, bell.Bell(database, interval_s=1.0)), fence)


def placement(generation_id):
    return fleet.Placement(job(generation_id), DECISION)


async def state(database, generation_id):
    return await database.fetchval("SELECT state FROM generation WHERE generation_id = $1", generation_id)


async def test_what_runs_is_adopted(database, service_secret):
    fence = await own(database)
    [key] = await begin(database, fence, (await make(database)).generation_id)
    held = tenure(database, service_secret, fence)
    await held.adopt()
    [aboard] = held.roster.of("run_a")
    assert (aboard.attempt.key, aboard.stream) == (key, 0)


async def test_what_ended_is_no_longer_aboard(database, service_secret):
    fence = await own(database)
    keys = await begin(database, fence, *[(await make(database)).generation_id for _ in range(3)])
    held = tenure(database, service_secret, fence)
    await held.adopt()
    finished = await held.finish(keys[0], outcomes.failed(pb.Failed()))
    again = await held.finish(keys[0], outcomes.failed(pb.Failed()))
    assert (finished, again) == (True, False)
    await held.give_back([keys[1]])
    assert len(list(held.roster)) == 1
    await held.bury("run_a")
    assert list(held.roster) == []
    states = [await state(database, key.generation_id) for key in keys]
    assert states == ["FAILED", "QUEUED", "QUEUED"]


async def test_an_unknown_commit_is_settled(database, service_secret):
    fence = await own(database)
    made = await make(database)
    held = tenure(database, service_secret, fence)
    await held.begin([placement(made.generation_id)])  # as if its answer had been lost before anything was sent
    held.astray = True
    await held.find_astray(committing=set())
    assert await state(database, made.generation_id) == "QUEUED"
    assert not held.astray


async def test_a_failed_commit_makes_it_look_for_strays(database, service_secret):
    fence = await own(database, lease_s=0.0)
    held = tenure(database, service_secret, fence)
    await own(database, "replica-2")
    with pytest.raises(errors.Aborted):
        await held.begin([placement((await make(database)).generation_id)])
    assert held.astray


async def test_a_stale_owner_knows_it_and_gives_up(database, service_secret):
    fence = await own(database, lease_s=0.0)
    [key] = await begin(database, fence, (await make(database)).generation_id)
    held = tenure(database, service_secret, fence)
    await own(database, "replica-2")
    assert await held.persist(lambda: held.give_back([key])) is None
    assert held.deposed
    assert await state(database, key.generation_id) == "RUNNING"


async def test_writes_are_tried_again_while_the_database_is_away(database, service_secret):
    held = tenure(database, service_secret, await own(database))
    answers = [errors.Unavailable("away"), errors.Unavailable("away"), "done"]

    async def act():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert await held.persist(act) == "done"
    assert not held.deposed
