"""A channel equips each call: credential, deadline, request id, retries where the proto allows them."""

import asyncio
import gc
import json

import grpc
import pytest

from darkroom import errors, rpc, telemetry
from darkroom.api.billing_meter.v1 import account_service_pb2 as account
from darkroom.api.billing_meter.v1 import account_service_pb2_grpc as account_grpc
from darkroom.rpc import client, methods

from .conftest import OPERATOR_KEY, TENANT_KEY


def test_the_service_config_retries_exactly_the_idempotent_methods():
    (config,) = json.loads(client.service_config())["methodConfig"]
    retried = {f"/{name['service']}/{name['method']}" for name in config["name"]}
    assert retried == {path for path, method in methods.table().items() if method.idempotent}
    assert config["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    assert config["retryPolicy"]["maxAttempts"] <= 5


def _fail_twice(room):
    async def act():
        if room.accounts.calls <= 2:
            raise errors.Unavailable("not yet", retry_after_s=0.0)

    room.accounts.act = act


async def test_an_idempotent_call_is_retried(room):
    _fail_twice(room)
    async with room.channel(OPERATOR_KEY) as channel:
        made = await account_grpc.AccountServiceStub(channel).CreateTenant(account.CreateTenantRequest(name="a"))
    assert made.tenant.name == "a"
    assert room.accounts.calls == 3


async def test_another_call_is_not(room):
    _fail_twice(room)
    async with room.channel(OPERATOR_KEY) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await account_grpc.AccountServiceStub(channel).CreateKey(account.CreateKeyRequest())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert room.accounts.calls == 1


async def test_a_call_without_a_deadline_gets_one(room, monkeypatch):
    monkeypatch.setattr(client, "UNARY_TIMEOUT_S", 0.05)
    room.accounts.act = asyncio.Event().wait
    async with room.channel(OPERATOR_KEY) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await account_grpc.AccountServiceStub(channel).CreateTenant(account.CreateTenantRequest())
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_endless_streams_have_none(room):
    async with room.channel() as channel:
        for path in rpc.ENDLESS_STREAMS:
            assert path in methods.table()
            call = channel.stream_stream(path)()
            assert call.time_remaining() is None
            call.cancel()
        call = channel.unary_stream("/darkroom.api.media_store.v1.MediaService/ReadMedia")(b"")
        assert call.time_remaining() == pytest.approx(client.STREAM_TIMEOUT_S, abs=5)
        call.cancel()


async def test_a_calls_own_authorization_wins(room):
    async with room.channel(TENANT_KEY) as channel:
        stub = account_grpc.AccountServiceStub(channel)
        own = (("authorization", f"Bearer {OPERATOR_KEY}"),)
        assert await stub.CreateTenant(account.CreateTenantRequest(), metadata=own)


async def test_the_credential_is_asked_at_each_call(room):
    given = iter([OPERATOR_KEY, "dk_none"])
    async with rpc.channel(room.address, credential=lambda: next(given)) as channel:
        stub = account_grpc.AccountServiceStub(channel)
        await stub.CreateTenant(account.CreateTenantRequest())
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.CreateTenant(account.CreateTenantRequest())


async def test_the_request_id_goes_on_from_room_to_room(room):
    token = telemetry.request_id.set("req-of-the-caller")
    try:
        async with room.channel(OPERATOR_KEY) as channel:
            await account_grpc.AccountServiceStub(channel).CreateTenant(account.CreateTenantRequest())
    finally:
        telemetry.request_id.reset(token)
    assert room.accounts.seen[0][1] == "req-of-the-caller"


async def test_nobody_there_is_unavailable(free_port):
    async with rpc.channel(f"127.0.0.1:{free_port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await account_grpc.AccountServiceStub(channel).CreateKey(account.CreateKeyRequest())
    assert isinstance(rpc.from_rpc_error(caught.value), errors.Unavailable)


async def test_a_call_that_outlives_its_loop_ends_quietly(room):
    async def begin():
        channel = room.channel(TENANT_KEY)
        call = channel.unary_stream("/darkroom.api.media_store.v1.MediaService/ReadMedia")(b"")
        await call.read()
        return call

    def forget():
        call = asyncio.run(begin())
        del call
        gc.collect()  # an error in there would be a warning, and warnings are errors

    await asyncio.to_thread(forget)


async def test_a_new_channel_does_not_wait_out_the_failures_of_an_older_one(free_port):
    address, asked = f"127.0.0.1:{free_port}", account.CreateKeyRequest()
    async with rpc.channel(address) as older:
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError):
                await account_grpc.AccountServiceStub(older).CreateKey(asked)
        server = grpc.aio.server()
        server.add_insecure_port(address)
        await server.start()
        try:
            async with rpc.channel(address) as newer:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await account_grpc.AccountServiceStub(newer).CreateKey(asked)
        finally:
            await server.stop(None)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
