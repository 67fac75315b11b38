"""The Work stream as an owner sees it: whole attempts through real gRPC, the stores and the engine."""

import io

import grpc.aio
import pytest
from PIL import Image

from darkroom import rpc, tokens
from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.api.model_runner.v1 import runner_service_pb2_grpc
from tests.model_runner import world as worlds


async def test_an_attempt_becomes_a_stored_picture(world: worlds.World) -> None:
    assign = world.assign(num_images=2)
    async with world.runner() as address, world.owner(address) as owner:
        await owner.send(assign=assign)
        completed = await owner.until("completed")
        await owner.acknowledge(completed)
        kinds = [message.WhichOneof("message") for message in owner.heard]

    assert kinds[0] == "listing"
    assert {"accepted", "progress"} <= set(kinds)
    assert completed.key == assign.key
    assert [artifact.seed for artifact in completed.artifacts] == [7, 8]
    for artifact in completed.artifacts:
        data = await world.read(artifact.media_id)
        assert len(data) == artifact.size_bytes
        assert artifact.media_type == "image/png"
        assert Image.open(io.BytesIO(data)).size == (32, 32)
    assert (completed.usage.images, completed.usage.steps, completed.usage.pixels) == (2, 8, 2048)
    assert completed.usage.gpu_time_us > 0
    spent = {field.name for field, _ in completed.stages.ListFields()}
    assert {"load_us", "denoise_us", "decode_us", "store_us"} <= spent


async def test_the_listing_names_the_runner_and_what_lives(world: worlds.World) -> None:
    assign = world.assign(steps=worlds.ENDLESS_STEPS)
    async with world.runner() as address:
        async with world.owner(address) as first:
            await first.send(assign=assign)
            await first.until("progress")
        async with world.owner(address) as second:
            listing = await second.until("listing")
            registered = await world.registrations.next()
            assert listing.runner_id == registered.runner_id
            assert list(listing.live) == [assign.key]
            await second.until("progress")


async def test_an_outcome_is_told_again_until_it_is_acknowledged(world: worlds.World) -> None:
    assign = world.assign()
    async with world.runner() as address:
        async with world.owner(address) as first:
            await first.send(assign=assign)
            completed = await first.until("completed")
        async with world.owner(address) as second:
            listing = await second.until("listing")
            assert not listing.live
            assert await second.until("completed", "heartbeat") == completed
            await second.acknowledge(completed)
            await second.send(cancel=pb.Cancel(key=assign.key))  # forgotten by now
            await second.until("cancelled")
        async with world.owner(address) as third:
            await third.until("heartbeat")
            assert [message.WhichOneof("message") for message in third.heard] == ["listing", "heartbeat"]


async def test_work_that_nobody_comes_back_for_is_dropped_after_the_grace(world: worlds.World) -> None:
    live = [pb.AttemptKey()]
    async with world.runner() as address:
        async with world.owner(address, grace_s=0.0) as first:
            await first.send(assign=world.assign(steps=worlds.ENDLESS_STEPS))
            await first.until("progress")
        while live:
            async with world.owner(address, grace_s=0.0) as other:
                live = list((await other.until("listing")).live)
                outcomes = [message.WhichOneof("message") for message in other.heard[1:]]
    assert not {"completed", "failed", "cancelled"} & set(outcomes)


async def test_a_cancel_ends_the_work_and_says_what_was_used(world: worlds.World) -> None:
    assign = world.assign(steps=worlds.ENDLESS_STEPS)
    async with world.runner() as address, world.owner(address) as owner:
        await owner.send(assign=assign)
        await owner.until("progress")
        await owner.send(cancel=pb.Cancel(key=assign.key))
        cancelled = await owner.until("cancelled")
        assert cancelled.key == assign.key
        assert 0 < cancelled.usage.steps < worlds.ENDLESS_STEPS
        assert cancelled.usage.images == 0


async def test_an_older_owner_is_refused_and_a_newer_one_takes_over(world: worlds.World) -> None:
    async with world.runner() as address, world.owner(address, epoch=5) as owner:
        await owner.until("listing")
        async with world.owner(address, epoch=4) as stale:
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await stale.until("listing")
            assert refusal.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert rpc.from_rpc_error(refusal.value).reason == "OWNER_REPLACED"
        await owner.until("heartbeat")
        async with world.owner(address, epoch=6) as newer:
            await newer.until("listing")
            while await owner.next() is not None:
                pass


async def test_what_is_no_request_ends_the_stream(world: worlds.World) -> None:
    async with world.runner() as address:
        async with world.owner(address) as owner:
            await owner.until("listing")
            await owner.send()
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await owner.until("nothing")
            assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        async with rpc.channel(address, credential=lambda: world.capability("gen_1")) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await runner_service_pb2_grpc.RunnerServiceStub(channel).Work().read()
            assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_the_first_message_must_be_a_hello(world: worlds.World) -> None:
    credential = tokens.ServiceCredential(world.service_secret, "scheduler")
    async with world.runner() as address, rpc.channel(address, credential=credential) as channel:
        call = runner_service_pb2_grpc.RunnerServiceStub(channel).Work()
        await call.write(pb.WorkRequest(cancel=pb.Cancel()))
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await call.read()
        assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
