"""Checkpoints go to media_store as the tenant's, for a while, the newest first; a store that is away costs no more than that."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import grpc.aio
import pytest
import tenacity

from darkroom import ids, rpc
from darkroom.api.media_store.v1 import media_service_pb2, media_service_pb2_grpc
from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.model_runner import aboard, messages, peers
from darkroom.model_runner.engine.job import Checkpointed, Usage
from darkroom.model_runner.loop import keep
from tests.model_runner import world as worlds

USAGE = Usage(adapters_us=1, prepare_us=2, denoise_us=3, decode_us=4, steps=5, images=0, pixels=0)
HOUR_S = 3600.0


def states(step: int) -> bytes:
    """What media_store takes for a safetensors file."""
    return (2).to_bytes(8, "little") + b"{}" + bytes(step)


def checkpointed(step: int) -> Checkpointed:
    return Checkpointed("gen_1/1/1", states(step), dataclasses.replace(USAGE, steps=step))


@pytest.fixture
async def media(world: worlds.World) -> AsyncIterator[grpc.aio.Channel]:
    async with rpc.channel(world.addresses["media_store_address"]) as channel:
        yield channel


class Stage:
    """A keeper of one live attempt, and what its owner heard."""

    def __init__(self, world: worlds.World, channel: grpc.aio.Channel) -> None:
        self.assign = world.assign()
        self.reports = aboard.Aboard("run_1", lambda assign: lambda: None)
        self.session = self.reports.open(pb.Hello())
        self.reports.take(self.session, pb.WorkRequest(assign=self.assign))
        self.keeper = keep.Keeper(self.assign, peers.Media(channel), self.reports, retention_s=HOUR_S)

    async def told(self) -> pb.Checkpoint:
        """The next checkpoint that the owner hears of."""
        while True:
            message = await self.session.queue.get()
            assert isinstance(message, pb.WorkResponse)
            if message.HasField("checkpoint"):
                return message.checkpoint


async def test_what_is_kept_can_be_gone_on_with_by_the_next_attempt(
    world: worlds.World, media: grpc.aio.Channel
) -> None:
    stage = Stage(world, media)
    stage.keeper.offer(checkpointed(7))
    told = await stage.told()
    assert (told.key, told.step) == (stage.assign.key, 7)
    assert (told.usage.steps, told.usage.gpu_time_us) == (7, 10)
    following = world.assign(generation_id=stage.assign.key.generation_id, attempt=2)
    following.checkpoint.CopyFrom(told)
    keeper = keep.Keeper(following, peers.Media(media), stage.reports, retention_s=HOUR_S)
    assert await keeper.read() == states(7)


async def test_it_is_the_tenants_for_a_while(world: worlds.World, media: grpc.aio.Channel) -> None:
    stage = Stage(world, media)
    stage.keeper.offer(checkpointed(7))
    request = media_service_pb2.GetMediaRequest(media_id=(await stage.told()).media_id)
    authorization = (("authorization", f"Bearer {stage.assign.capability}"),)
    stub = media_service_pb2_grpc.MediaServiceStub(media)
    kept = (await stub.GetMedia(request, metadata=authorization)).media
    assert kept.generation_id == stage.assign.key.generation_id
    assert kept.expires_at.ToSeconds() - kept.created_at.ToSeconds() == HOUR_S
    stranger = world.capability(ids.new("gen"), ids.new("ten"))
    with pytest.raises(grpc.aio.AioRpcError, match="NOT_FOUND"):
        await stub.GetMedia(request, metadata=(("authorization", f"Bearer {stranger}"),))


async def test_the_newest_goes_first(world: worlds.World, media: grpc.aio.Channel) -> None:
    stage = Stage(world, media)
    for step in range(1, 6):
        stage.keeper.offer(checkpointed(step))
        await asyncio.sleep(0)
    steps = [(await stage.told()).step]
    if steps[0] != 5:
        steps.append((await stage.told()).step)
    assert steps in ([5], [1, 5])
    await stage.keeper.close()


async def test_a_store_that_is_away_costs_a_checkpoint_alone(
    world: worlds.World, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for method in (peers.Media.keep, peers.Media.read):
        monkeypatch.setattr(method.retry, "stop", tenacity.stop_after_attempt(1))
    async with rpc.channel(f"127.0.0.1:{free_port}") as nobody:
        stage = Stage(world, nobody)
        assert await stage.keeper.put(states(1), USAGE) is None
        stage.assign.checkpoint.media_id = ids.new("med")
        assert await stage.keeper.read() is None


async def test_what_is_gone_or_was_never_there_means_from_the_start(
    world: worlds.World, media: grpc.aio.Channel
) -> None:
    stage = Stage(world, media)
    assert await stage.keeper.read() is None
    stage.assign.checkpoint.media_id = ids.new("med")
    assert await stage.keeper.read() is None


async def test_what_is_under_way_at_the_end_is_told_and_nothing_after_it(
    world: worlds.World, media: grpc.aio.Channel
) -> None:
    stage = Stage(world, media)
    stage.keeper.offer(checkpointed(1))
    await asyncio.sleep(0)
    stage.keeper.offer(checkpointed(2))
    stage.reports.end(messages.key_of(stage.assign.key), pb.WorkResponse(completed=pb.Completed(key=stage.assign.key)))
    await stage.keeper.settle()
    heard = [stage.session.queue.get_nowait() for _ in range(stage.session.queue.qsize())]
    assert [
        one.checkpoint.step for one in heard if isinstance(one, pb.WorkResponse) and one.HasField("checkpoint")
    ] == [1]


async def test_a_closed_keeper_stores_no_more(world: worlds.World, free_port: int) -> None:
    async with rpc.channel(f"127.0.0.1:{free_port}") as nobody:
        stage = Stage(world, nobody)
        stage.keeper.offer(checkpointed(1))
        await asyncio.sleep(0)
        await stage.keeper.close()
        assert not [task for task in asyncio.all_tasks() if "Keeper._store" in repr(task)]
