"""A room of nothing but a servicer of every kind of call, spoken to through real gRPC."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest

from darkroom import errors, rpc, settings, tokens
from darkroom.api.billing_meter.v1 import account_service_pb2, account_service_pb2_grpc
from darkroom.api.media_store.v1 import media_service_pb2, media_service_pb2_grpc
from darkroom.api.model_runner.v1 import runner_service_pb2, runner_service_pb2_grpc

TENANT_KEY = "dk_" + "a" * 12 + "_" + "1" * 64
OPERATOR_KEY = "dk_" + "b" * 12 + "_" + "2" * 64
CHEATING_KEY = "dk_" + "c" * 12 + "_" + "3" * 64


class Accounts(account_service_pb2_grpc.AccountServiceServicer):
    """Unary calls; `act` is what CreateTenant does."""

    def __init__(self) -> None:
        self.act: Callable[[], Awaitable[None]] | None = None
        self.calls = 0
        self.seen: list[tuple[tokens.Principal, str]] = []

    async def CreateTenant(self, request, context):
        self.calls += 1
        self.seen.append((rpc.principal(), rpc.request_id()))
        if self.act is not None:
            await self.act()
        return account_service_pb2.CreateTenantResponse(tenant=account_service_pb2.Tenant(name=request.name))

    async def CreateKey(self, request, context):
        return await self.CreateTenant(request, context)

    async def VerifyKey(self, request, context):
        self.calls += 1
        if self.act is not None:
            await self.act()
        if request.api_key != TENANT_KEY:
            raise errors.Unauthenticated("unknown")
        return account_service_pb2.VerifyKeyResponse(tenant_id="ten_1", key_id="key_1", scopes=["media.read"])


class Media(media_service_pb2_grpc.MediaServiceServicer):
    """One streaming call each way."""

    async def PutMedia(self, request_iterator, context):
        count = 0
        async for _ in request_iterator:
            count += 1
        if count == 0:
            raise errors.InvalidArgument.of("data", "is required")
        return media_service_pb2.PutMediaResponse(media=media_service_pb2.Media(size_bytes=count))

    async def ReadMedia(self, request, context):
        for index in range(3):
            yield media_service_pb2.ReadMediaResponse(chunk=bytes([index]))
        if request.media_id != "all":
            raise errors.NotFound("media", request.media_id)


class Runner(runner_service_pb2_grpc.RunnerServiceServicer):
    """A stream both ways without an end, unless it is asked to cancel."""

    async def Work(self, request_iterator, context):
        async for request in request_iterator:
            if request.HasField("cancel"):
                return
            yield runner_service_pb2.WorkResponse()
        await asyncio.Event().wait()


async def verify_key(api_key: str) -> tokens.Principal:
    """Knows three keys."""
    scopes = {TENANT_KEY: {"media.read", "media.write"}, OPERATOR_KEY: {"operator"}, CHEATING_KEY: {"internal"}}
    if api_key not in scopes:
        raise errors.Unauthenticated("unknown")
    return tokens.Principal(tenant_id="ten_1", key_id="key_1", scopes=frozenset(scopes[api_key]))


class Room:
    """A running server, its servicers, and channels to it."""

    def __init__(self, server: rpc.Server, address: str, accounts: Accounts, secret: str) -> None:
        self.server = server
        self.address = address
        self.accounts = accounts
        self.secret = secret

    def channel(self, credential: str | None = None, *, tls: rpc.Tls | None = None) -> grpc.aio.Channel:
        return rpc.channel(self.address, tls=tls, credential=None if credential is None else lambda: credential)


@contextlib.asynccontextmanager
async def running(config: settings.Room) -> AsyncIterator[Room]:
    server = rpc.Server(config, room="test", verify_key=verify_key)
    accounts = Accounts()
    server.add(account_service_pb2_grpc.add_AccountServiceServicer_to_server, accounts)
    server.add(media_service_pb2_grpc.add_MediaServiceServicer_to_server, Media())
    server.add(runner_service_pb2_grpc.add_RunnerServiceServicer_to_server, Runner())
    address = await server.start()
    try:
        yield Room(server, address, accounts, config.service_secret)
    finally:
        await server.stop()


@pytest.fixture
def config(service_secret) -> settings.Room:
    return settings.Room(service_secret=service_secret, shutdown_grace_s=0.2)


@pytest.fixture
async def room(config) -> AsyncIterator[Room]:
    async with running(config) as room:
        yield room
