"""What grpc.aio loses, a channel's calls keep: the caller's cancellation and the server's refusal."""

import asyncio

import grpc
import pytest

from darkroom import errors, rpc, tokens
from darkroom.api.media_store.v1 import media_service_pb2 as media
from darkroom.api.media_store.v1 import media_service_pb2_grpc as media_grpc
from darkroom.api.model_runner.v1 import runner_service_pb2 as runner
from darkroom.api.model_runner.v1 import runner_service_pb2_grpc as runner_grpc

from .conftest import OPERATOR_KEY, TENANT_KEY

TRIES = 30  # grpc.aio itself hides about every third refusal of a stream that is still written
CHUNKS = [media.PutMediaRequest(chunk=bytes(size)) for size in (0, 100_000, 3_000_000)]


async def refused(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anext(call)
    return caught.value


async def test_a_refusal_is_heard_while_the_client_still_writes(room):
    for count in range(TRIES):
        async with room.channel(OPERATOR_KEY) as channel:
            put = media_grpc.MediaServiceStub(channel).PutMedia(iter([CHUNKS[count % len(CHUNKS)]] * 3))
            assert await put.code() is grpc.StatusCode.PERMISSION_DENIED
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await put
            work = runner_grpc.RunnerServiceStub(channel).Work(iter([runner.WorkRequest()] * 3))
            for error in (caught.value, await refused(work)):
                assert isinstance(rpc.from_rpc_error(error), errors.PermissionDenied)
                assert error.trailing_metadata()["x-request-id"]
            assert await work.code() is grpc.StatusCode.PERMISSION_DENIED
            assert (await work.trailing_metadata())["x-request-id"]
            assert "internal" in await work.details()


async def test_a_cancellation_in_the_moment_of_the_end_is_not_lost(room):
    async def dial(channel):
        call = runner_grpc.RunnerServiceStub(channel).Work(iter([runner.WorkRequest()]))
        call.add_done_callback(lambda _: task.cancel())
        await refused(call)

    async with room.channel(OPERATOR_KEY) as channel:
        for _ in range(TRIES):
            task = asyncio.create_task(dial(channel))
            await asyncio.wait([task])
            assert task.cancelled()


async def test_a_stream_that_ends_well_while_the_client_still_writes_has_ended_well(room):
    service = tokens.service_token(room.secret, "test")
    for _ in range(TRIES):
        async with room.channel(service) as channel:
            call = runner_grpc.RunnerServiceStub(channel).Work(iter([runner.WorkRequest(cancel=runner.Cancel())] * 3))
            assert [message async for message in call] == []
            assert await call.code() is grpc.StatusCode.OK


async def test_messages_come_in_order_and_end(room):
    async with room.channel(TENANT_KEY) as channel:
        stub = media_grpc.MediaServiceStub(channel)
        call = stub.ReadMedia(media.ReadMediaRequest(media_id="all"))
        assert [message.chunk async for message in call] == [b"\0", b"\1", b"\2"]
        assert [message async for message in call] == []
        assert await call.code() is grpc.StatusCode.OK
        reading = stub.ReadMedia(media.ReadMediaRequest(media_id="all"))
        assert [(await reading.read()).chunk for _ in range(3)] == [b"\0", b"\1", b"\2"]
        assert await reading.read() is grpc.aio.EOF
