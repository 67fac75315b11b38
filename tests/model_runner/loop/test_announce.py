"""Registrations go on whatever the scheduler does; heartbeats come at once for a new owner and end with the engine."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from darkroom import rpc, tokens
from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.model_runner import aboard, nvml, peers
from darkroom.model_runner.domain import Identity
from darkroom.model_runner.engine import engine as engine_thread
from darkroom.model_runner.engine import job as engine_job
from darkroom.model_runner.loop import announce, bridge
from tests.model_runner import world as worlds

IDENTITY = Identity("run_1", "node-a", "127.0.0.1:7", ("tiny",))
DEVICE = nvml.DeviceIdentity("cpu", "host", 8, "")
NEVER_S = 3600.0


@contextlib.asynccontextmanager
async def background(task: "asyncio.Task[None]") -> AsyncIterator[None]:
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def attempts() -> aboard.Aboard:
    return aboard.Aboard("run_1", lambda assign: lambda: None)


async def test_it_registers_again_and_again(world: worlds.World, attempts: aboard.Aboard) -> None:
    credential = tokens.ServiceCredential(world.service_secret, "model_runner")
    async with rpc.channel(world.addresses["scheduler_address"], credential=credential) as channel:
        registering = announce.register(peers.Scheduler(channel), IDENTITY, DEVICE, attempts, interval_s=0.01)
        async with background(asyncio.create_task(registering)):
            first = await world.registrations.next()
            assert (first.runner_id, first.node, first.address) == ("run_1", "node-a", "127.0.0.1:7")
            assert (list(first.models), first.device.product, first.draining) == (["tiny"], "cpu", False)
            world.registrations.away = True
            await world.registrations.refused.wait()
            attempts.drain()
            world.registrations.away = False
            while not (await world.registrations.next()).draining:
                pass


async def test_one_taken_for_dead_registers_as_another(world: worlds.World) -> None:
    async with world.runner() as address, world.owner(address) as owner:
        await owner.send(assign=world.assign(steps=worlds.ENDLESS_STEPS))
        await owner.until("progress")
        before = (await world.registrations.next()).runner_id
        world.registrations.lost.add(before)
        while (after := (await world.registrations.next()).runner_id) == before:
            pass
        while await owner.next() is not None:
            pass
        async with world.owner(address) as other:
            listing = await other.until("listing")
            assert (listing.runner_id, list(listing.live)) == (after, [])


@pytest.fixture
async def spanned(specs: dict[str, engine_job.ModelSpec]) -> AsyncIterator[bridge.Bridge]:
    made = bridge.Bridge(lambda on_event: engine_thread.Engine(engine_job.EngineConfig(), [], on_event))
    yield made
    await made.close()


async def test_a_new_owner_and_a_drain_are_told_at_once(spanned: bridge.Bridge, attempts: aboard.Aboard) -> None:
    beating = announce.beat(spanned, nvml.open_sampler("cpu"), attempts, interval_s=NEVER_S)
    async with background(asyncio.create_task(beating)):
        session = attempts.open(pb.Hello())
        listing, heartbeat = await session.queue.get(), await session.queue.get()
        assert isinstance(listing, pb.WorkResponse)
        assert isinstance(heartbeat, pb.WorkResponse)
        assert listing.HasField("listing")
        assert heartbeat.heartbeat.sample.memory_total_bytes > 0
        assert heartbeat.heartbeat.engine_idle
        attempts.drain()
        again = await session.queue.get()
        assert isinstance(again, pb.WorkResponse)
        assert again.heartbeat.draining


async def test_a_dead_engine_ends_the_beating(spanned: bridge.Bridge, attempts: aboard.Aboard) -> None:
    await spanned.close()
    with pytest.raises(announce.EngineDied):
        await announce.beat(spanned, nvml.open_sampler("cpu"), attempts, interval_s=NEVER_S)


async def test_a_runner_taken_for_dead_registers_as_another(world: worlds.World, attempts: aboard.Aboard) -> None:
    credential = tokens.ServiceCredential(world.service_secret, "model_runner")
    async with rpc.channel(world.addresses["scheduler_address"], credential=credential) as channel:
        world.registrations.lost.add("run_1")
        registering = announce.register(peers.Scheduler(channel), IDENTITY, DEVICE, attempts, interval_s=0.01)
        async with background(asyncio.create_task(registering)):
            assert (await world.registrations.next()).runner_id == attempts.runner_id != "run_1"
