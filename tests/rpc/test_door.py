"""Every kind of call through the door: who may pass, what malformed bytes and exceptions become, what is logged."""

import asyncio
import logging

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from darkroom import errors, ids, rpc, telemetry, tokens
from darkroom.api.billing_meter.v1 import account_service_pb2 as account
from darkroom.api.billing_meter.v1 import account_service_pb2_grpc as account_grpc
from darkroom.api.media_store.v1 import media_service_pb2 as media
from darkroom.api.media_store.v1 import media_service_pb2_grpc as media_grpc
from darkroom.api.model_runner.v1 import runner_service_pb2 as runner
from darkroom.api.model_runner.v1 import runner_service_pb2_grpc as runner_grpc

from .conftest import OPERATOR_KEY, TENANT_KEY

CREATE = "/darkroom.api.billing_meter.v1.AccountService/CreateTenant"
READ = "/darkroom.api.media_store.v1.MediaService/ReadMedia"
PUT = "/darkroom.api.media_store.v1.MediaService/PutMedia"
WORK = "/darkroom.api.model_runner.v1.RunnerService/Work"
NOT_UTF8 = b"\x0a\x02\xff\xfe"


def _details(error: grpc.aio.AioRpcError, kind):
    status = rpc_status.from_call(error)
    for packed in status.details:
        detail = kind()
        if packed.Unpack(detail):
            return detail
    raise AssertionError(f"no {kind.__name__}")


async def _fails(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def _drain(call) -> list[object]:
    return [message async for message in call]


async def test_all_four_kinds_pass(room):
    async with room.channel(OPERATOR_KEY) as channel:
        made = await account_grpc.AccountServiceStub(channel).CreateTenant(account.CreateTenantRequest(name="a"))
        assert made.tenant.name == "a"
    async with room.channel(TENANT_KEY) as channel:
        stub = media_grpc.MediaServiceStub(channel)
        assert len(await _drain(stub.ReadMedia(media.ReadMediaRequest(media_id="all")))) == 3
        put = await stub.PutMedia(iter([media.PutMediaRequest(), media.PutMediaRequest()]))
        assert put.media.size_bytes == 2
    async with room.channel(tokens.service_token(room.secret, "scheduler")) as channel:
        work = runner_grpc.RunnerServiceStub(channel).Work()
        await work.write(runner.WorkRequest())
        assert await work.read() == runner.WorkResponse()
        work.cancel()


async def test_the_handler_knows_who_calls_and_the_request_id_travels(room):
    async with room.channel(OPERATOR_KEY) as channel:
        stub = account_grpc.AccountServiceStub(channel)
        call = stub.CreateTenant(account.CreateTenantRequest(), metadata=(("x-request-id", "mine-1"),))
        await call
        assert (await call.trailing_metadata())["x-request-id"] == "mine-1"
        await stub.CreateTenant(account.CreateTenantRequest(), metadata=(("x-request-id", "evil id\x1b"[:7] + '"'),))
        await stub.CreateTenant(account.CreateTenantRequest())
    (first, mine), (_, replaced), (_, made) = room.accounts.seen
    assert (first.tenant_id, mine) == ("ten_1", "mine-1")
    assert ids.check(replaced, "req")
    assert ids.check(made, "req")


async def test_a_handlers_error_becomes_a_rich_status_and_comes_back(room):
    async with room.channel(TENANT_KEY) as channel:
        stub = media_grpc.MediaServiceStub(channel)
        error = await _fails(stub.PutMedia(iter([])))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert _details(error, error_details_pb2.BadRequest).field_violations[0].field == "data"
        error = await _fails(_drain(stub.ReadMedia(media.ReadMediaRequest(media_id="med_x"))))
        back = rpc.from_rpc_error(error)
        assert isinstance(back, errors.NotFound)
        assert (back.resource_type, back.name) == ("media", "med_x")
        assert ids.check(back.request_id, "req")


@pytest.mark.parametrize("data", [NOT_UTF8, b"\x0a\xff\xff\xff\xff\x0f", b"\xff"])
async def test_malformed_bytes_are_invalid_argument_in_every_kind(room, data):
    service = tokens.service_token(room.secret, "scheduler")

    async def ask(credential, kind, path):
        async with room.channel(credential) as channel:
            call = getattr(channel, kind)(path)
            if kind.endswith("unary"):
                return await _fails(call(data if kind == "unary_unary" else iter([data])))
            return await _fails(_drain(call(data if kind == "unary_stream" else iter([data]))))

    for credential, kind, path, message in (
        (OPERATOR_KEY, "unary_unary", CREATE, "CreateTenantRequest"),
        (TENANT_KEY, "unary_stream", READ, "ReadMediaRequest"),
        (TENANT_KEY, "stream_unary", PUT, "PutMediaRequest"),
        (service, "stream_stream", WORK, "WorkRequest"),
    ):
        error = await ask(credential, kind, path)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, kind
        assert _details(error, error_details_pb2.BadRequest).field_violations[0].field.endswith(message)


async def test_an_unknown_exception_says_nothing_to_the_caller_and_its_frames_to_the_log(room, caplog):
    async def fail():
        raise ValueError("the secret prompt")

    room.accounts.act = fail
    with caplog.at_level(logging.ERROR, "darkroom"):
        async with room.channel(OPERATOR_KEY) as channel:
            error = await _fails(account_grpc.AccountServiceStub(channel).CreateKey(account.CreateKeyRequest()))
    assert error.code() is grpc.StatusCode.INTERNAL
    info = _details(error, error_details_pb2.ErrorInfo)
    assert (info.domain, info.reason) == ("darkroom", "INTERNAL")
    assert info.metadata["request_id"] in error.details()
    assert "secret" not in str(error)
    (record,) = caplog.records
    line = telemetry.JsonFormatter("test").format(record)
    assert "secret" not in line
    assert "ValueError" in line
    assert " fail" in line


async def test_a_peer_that_is_away_is_unavailable(room, free_port):
    async def call_nobody():
        async with rpc.channel(f"127.0.0.1:{free_port}") as nobody:
            await account_grpc.AccountServiceStub(nobody).CreateKey(account.CreateKeyRequest(), timeout=5)

    room.accounts.act = call_nobody
    async with room.channel(OPERATOR_KEY) as channel:
        error = await _fails(account_grpc.AccountServiceStub(channel).CreateKey(account.CreateKeyRequest()))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert str(free_port) not in str(error.details())


async def test_a_cancelled_call_is_not_an_error_in_the_log(room, caplog):
    entered, left = asyncio.Event(), asyncio.Event()

    async def wait():
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    room.accounts.act = wait
    async with room.channel(OPERATOR_KEY) as channel:
        call = account_grpc.AccountServiceStub(channel).CreateTenant(account.CreateTenantRequest())
        await entered.wait()
        call.cancel()
        await left.wait()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_unary_handler_is_cut_at_the_servers_limit(config, monkeypatch):
    from darkroom.rpc import shapes

    from .conftest import running

    monkeypatch.setattr(shapes, "UNARY_TIMEOUT_S", 0.01)
    async with running(config) as room, room.channel(OPERATOR_KEY) as channel:
        room.accounts.act = asyncio.Event().wait
        error = await _fails(account_grpc.AccountServiceStub(channel).CreateTenant(account.CreateTenantRequest()))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_draining_sends_endless_streams_elsewhere(room):
    async with room.channel(tokens.service_token(room.secret, "scheduler")) as channel:
        work = runner_grpc.RunnerServiceStub(channel).Work()
        await work.write(runner.WorkRequest())
        await work.read()
        await room.server.stop()
        assert await work.code() is grpc.StatusCode.UNAVAILABLE
        assert "resume" in await work.details()
