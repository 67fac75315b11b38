"""The server: health, reflection, its address, and an end that fails no call."""

import asyncio
import dataclasses
import inspect
import os
import pathlib
import re
import signal

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc._cython import cygrpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from darkroom import rpc, settings
from darkroom.api.billing_meter.v1 import account_service_pb2 as account
from darkroom.api.billing_meter.v1 import account_service_pb2_grpc as account_grpc
from darkroom.rpc import client, server

from .conftest import OPERATOR_KEY, running, verify_key

SERVICE = "darkroom.api.billing_meter.v1.AccountService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def _health(address, service=""):
    async with grpc.aio.insecure_channel(address) as channel:
        check = health_pb2.HealthCheckRequest(service=service)
        return (await health_pb2_grpc.HealthStub(channel).Check(check, timeout=10)).status


async def test_health_needs_no_credential_and_knows_each_service(room):
    assert await _health(room.address) == SERVING
    assert await _health(room.address, SERVICE) == SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _health(room.address, "other.Service")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_health_has_a_plaintext_port_of_its_own(config, free_port):
    plain = f"127.0.0.1:{free_port}"
    async with running(dataclasses.replace(config, health_address=plain)):
        assert await _health(plain) == SERVING
        async with rpc.channel(plain, credential=lambda: OPERATOR_KEY) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await account_grpc.AccountServiceStub(channel).CreateKey(account.CreateKeyRequest())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def _reflect(room):
    async with room.channel() as channel:  # a bare one may hide the refusal of a stream
        ask = reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE)
        stream = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([ask]), timeout=10)
        return [answer async for answer in stream]


async def test_reflection_describes_the_services_unless_it_is_off(room, config):
    (answer,) = await _reflect(room)
    file = descriptor_pb2.FileDescriptorProto.FromString(answer.file_descriptor_response.file_descriptor_proto[0])
    assert file.package == SERVICE.rpartition(".")[0]
    async with running(dataclasses.replace(config, reflection=False)) as quiet:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _reflect(quiet)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_taken_address_is_a_settings_error(room, config):
    with pytest.raises(settings.SettingsError, match="taken"):
        async with running(dataclasses.replace(config, listen_address=room.address)):
            pass


async def test_a_message_above_4_mib_is_refused(room):
    async with grpc.aio.insecure_channel(room.address) as channel:
        call = channel.unary_unary(f"/{SERVICE}/CreateTenant")(b"x" * (4 * 1024 * 1024 + 1), timeout=10)
        assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def _until_not_serving(address):
    async with grpc.aio.insecure_channel(address) as channel:
        async for answer in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=10):
            if answer.status == NOT_SERVING:
                return


async def test_stopping_lets_calls_under_way_finish(config):
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow():
        entered.set()
        await leave.wait()

    async with (
        running(dataclasses.replace(config, shutdown_grace_s=4.0)) as room,
        room.channel(OPERATOR_KEY) as channel,
    ):
        room.accounts.act = slow
        call = account_grpc.AccountServiceStub(channel).CreateTenant(account.CreateTenantRequest(name="late"))
        await entered.wait()
        stopping = asyncio.create_task(room.server.stop())
        await _until_not_serving(room.address)
        leave.set()
        assert (await call).tenant.name == "late"
        await stopping


def _server(config):
    server = rpc.Server(config, room="test", verify_key=verify_key)
    server.add(account_grpc.add_AccountServiceServicer_to_server, account_grpc.AccountServiceServicer())
    return server


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_run_ends_gracefully_on_a_signal(config, number):
    seen = []
    ready = asyncio.get_running_loop().create_future()

    async def drain():
        seen.append(await _health(ready.result()))

    task = asyncio.create_task(_server(config).run(ready.set_result, drain=drain))
    await ready
    assert await _health(ready.result()) == SERVING
    os.kill(os.getpid(), number)
    await task
    assert seen == [NOT_SERVING]
    with pytest.raises(grpc.aio.AioRpcError):
        await _health(ready.result())


async def test_run_ends_gracefully_when_cancelled(config):
    ready = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(_server(config).run(ready.set_result))
    address = await ready
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(grpc.aio.AioRpcError):
        await _health(address)


async def test_background_tasks_end_with_the_body():
    ended = asyncio.Event()

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with rpc.background() as tasks:
        tasks.create_task(work())
        await asyncio.sleep(0)
    assert ended.is_set()


async def test_a_failing_background_task_ends_the_body():
    async def fail():
        raise KeyError("broken")

    async def body():
        async with rpc.background() as tasks:
            tasks.create_task(fail())
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as caught:
        await body()
    assert caught.group_contains(KeyError)


@pytest.mark.parametrize("module", [server, client])
def test_grpc_knows_every_option_set_here(module):
    library = pathlib.Path(cygrpc.__file__).read_bytes()
    names = re.findall(r'"(grpc\.[a-z0-9_.]+)"', inspect.getsource(module))
    assert len(names) >= 8
    assert not [name for name in names if name.encode() not in library]  # gRPC ignores what it does not know
