"""Every RPC of the platform by its path, called with any bytes and any metadata, as a stranger's client could.

A path and messages (or raw bytes) come in; what the platform answers goes out: `None` for success, else a `Refusal` with its status
and its details, free of what differs from call to call.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import grpc
from google.protobuf import message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from darkroom import rpc, tokens
from tests import platforms

TIMEOUT_S = 60.0
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED

Metadata = tuple[tuple[str, str | bytes], ...]


class Refusal(NamedTuple):
    """How a call was refused."""

    code: grpc.StatusCode
    message: str
    details: tuple[message.Message, ...]

    @property
    def fields(self) -> set[str]:
        """The fields that its BadRequest names."""
        found = [detail for detail in self.details if isinstance(detail, error_details_pb2.BadRequest)]
        return {violation.field for detail in found for violation in detail.field_violations}


class Doors:
    """The rooms' servers, each by the paths it serves."""

    def __init__(self, platform: platforms.Platform, runner_address: str, stack: contextlib.AsyncExitStack) -> None:
        self.service_secret = json.loads((platform.folder / "secrets.json").read_text())["service_secret"]
        self.operator_key = platform.connection.operator_key
        self._connection = platform.connection
        self._runner_address = runner_address
        self._stack = stack
        self._channels: dict[str, grpc.aio.Channel] = {}

    def internal(self) -> str:
        """A credential as one room shows it to another."""
        return tokens.service_token(self.service_secret, "scheduler")

    async def call(self, path: str, *sent: message.Message | bytes, credential: str = "") -> Refusal | None:
        """Call with one bearer credential; without one if it is empty."""
        shown = (("authorization", f"Bearer {credential}"),) if credential else ()
        return await self.call_with(path, *sent, metadata=shown)

    async def call_with(self, path: str, *sent: message.Message | bytes, metadata: Metadata) -> Refusal | None:
        """Call with this metadata; how it was refused, or None."""
        try:
            await self._send(path, sent, metadata)
        except grpc.aio.AioRpcError as error:
            return _refusal(error)
        return None

    async def _send(self, path: str, sent: Sequence[message.Message | bytes], metadata: Metadata) -> None:
        method = rpc.methods.table()[path]
        kinds = {True: "stream", False: "unary"}
        make: Any = getattr(
            await self._channel(path), f"{kinds[method.client_streaming]}_{kinds[method.server_streaming]}"
        )
        call = make(path, request_serializer=_bytes, response_deserializer=bytes)
        request: Any = _stream(sent) if method.client_streaming else sent[0]
        answer = call(request, metadata=metadata, timeout=TIMEOUT_S)
        if not method.server_streaming:
            await answer
            return
        async for _ in answer:
            if method.client_streaming:  # Work, which would go on for ever
                break

    async def _channel(self, path: str) -> grpc.aio.Channel:
        room = path.split(".")[2]
        address = self._runner_address if room == "model_runner" else getattr(self._connection, f"{room}_address")
        if room not in self._channels:
            channel = rpc.channel(address)
            self._channels[room] = await self._stack.enter_async_context(channel)
        return self._channels[room]


@contextlib.asynccontextmanager
async def opened(platform: platforms.Platform) -> AsyncIterator[Doors]:
    """The doors of a platform that serves."""
    async with platform.operator() as operator:
        runners = await operator.runners()
    async with contextlib.AsyncExitStack() as stack:
        yield Doors(platform, runners[0].address, stack)


def path_of(name: str) -> str:
    """The full path of "Service/Method"."""
    (path,) = [path for path in rpc.methods.table() if path.endswith(f".{name}")]
    return path


def _bytes(sent: message.Message | bytes) -> bytes:
    return sent if isinstance(sent, bytes) else sent.SerializeToString()


async def _stream(sent: Sequence[message.Message | bytes]) -> AsyncIterator[message.Message | bytes]:
    for one in sent:
        yield one


def _refusal(error: grpc.aio.AioRpcError) -> Refusal:
    status = rpc_status.from_call(error)
    details = []
    for packed in status.details if status else ():
        for kind in (error_details_pb2.BadRequest, error_details_pb2.ErrorInfo, error_details_pb2.ResourceInfo):
            found = kind()
            if packed.Unpack(found):
                if isinstance(found, error_details_pb2.ErrorInfo):
                    found.metadata.pop("request_id", None)
                details.append(found)
    return Refusal(error.code(), error.details() or "", tuple(details))
