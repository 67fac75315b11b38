"""Many generations at once: each ends once, and the books are exact. The full 200 are in `benchmarks/load.py`."""

import asyncio
import time

from darkroom import client
from darkroom.api.scheduler.v1 import generation_pb2 as generation_pb
from tests import platforms
from tests.journeys import load

GENERATIONS = 60
CONCURRENCY = 32
STEPS = 2


async def test_a_crowd_is_served_and_billed_exactly(platform: platforms.Platform) -> None:
    tenant = await load.new_tenant(platform, "crowd")
    async with platform.tenant(tenant.api_key) as darkroom:
        shots = await load.shoot(darkroom, count=GENERATIONS, concurrency=CONCURRENCY, steps=STEPS)
        again = await load.shoot(darkroom, count=GENERATIONS, concurrency=CONCURRENCY, steps=STEPS)
    assert load.all_succeeded(shots)
    assert [shot.generation.generation_id for shot in again] == [shot.generation.generation_id for shot in shots]
    await load.audit(platform, tenant, shots)


async def test_fifty_submits_of_one_key_are_one_generation(platform: platforms.Platform) -> None:
    tenant = await load.new_tenant(platform, "impatient")
    async with platform.tenant(tenant.api_key) as darkroom:
        answers = await asyncio.gather(*(darkroom.create(load.request(0, steps=1)) for _ in range(50)))
        assert len({answer.generation_id for answer in answers}) == 1
        ended = [await _shot(darkroom, answers[0].generation_id)]
    assert load.all_succeeded(ended)
    await load.audit(platform, tenant, ended)


async def test_cancelled_work_is_free_and_the_rest_is_charged(platform: platforms.Platform) -> None:
    tenant = await load.new_tenant(platform, "fickle")
    async with platform.tenant(tenant.api_key) as darkroom:
        kept = [await darkroom.create(load.request(number, steps=STEPS, run="kept")) for number in range(8)]
        dropped = [await darkroom.create(load.request(number, steps=100, run="dropped")) for number in range(12)]
        await load.follow(darkroom, kept[0].generation_id)  # some of the others run by now, some wait
        await asyncio.gather(*(darkroom.cancel(each.generation_id) for each in dropped))
        ended = await asyncio.gather(*(_shot(darkroom, each.generation_id) for each in (*kept, *dropped)))
    assert load.all_succeeded(ended[: len(kept)])
    states = {shot.generation.state for shot in ended[len(kept) :]}
    assert generation_pb.GENERATION_STATE_CANCELLED in states
    assert states <= {generation_pb.GENERATION_STATE_CANCELLED, generation_pb.GENERATION_STATE_SUCCEEDED}
    await load.audit(platform, tenant, ended)


async def _shot(darkroom: client.AsyncClient, generation_id: str) -> load.Shot:
    started_s = time.monotonic()
    return load.Shot(await load.follow(darkroom, generation_id), time.monotonic() - started_s)
