"""The other rooms a runner calls: the scheduler, lora_store and media_store. The only file with their stubs.

Ids and bytes come in with the attempt's capability; files, media ids and registrations go out, every refusal as a `DarkroomError`.
"""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import grpc

from darkroom import errors, rpc
from darkroom.api.lora_store.v1 import lora_service_pb2, lora_service_pb2_grpc
from darkroom.api.media_store.v1 import media_service_pb2, media_service_pb2_grpc
from darkroom.api.scheduler.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from darkroom.api.types.v1 import device_pb2, media_pb2
from darkroom.model_runner import messages
from darkroom.model_runner.engine import job as engine_job

CHUNK_BYTES = 512 * 1024


class Identity(Protocol):
    """Who registers."""

    runner_id: str
    node: str
    address: str
    models: tuple[str, ...]


class AdapterFile(NamedTuple):
    """An adapter on this machine; its digest was checked."""

    path: Path
    sha256: str


class Scheduler:
    """FleetService of any scheduler replica."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = fleet_service_pb2_grpc.FleetServiceStub(channel)

    async def register(
        self, identity: Identity, device: device_pb2.Device, *, draining: bool, timeout_s: float
    ) -> None:
        """Say that this runner lives."""
        request = fleet_service_pb2.RegisterRunnerRequest(
            runner_id=identity.runner_id,
            node=identity.node,
            address=identity.address,
            device=device,
            models=identity.models,
            draining=draining,
        )
        with _translated():
            await self._stub.RegisterRunner(request, timeout=timeout_s)


class Media:
    """MediaService, for artifacts."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = media_service_pb2_grpc.MediaServiceStub(channel)

    async def put(self, output: engine_job.Output, capability: str) -> media_pb2.Artifact:
        """Store one output; the same bytes of the same generation get the same id."""
        sha256 = await asyncio.to_thread(lambda: hashlib.sha256(output.data).hexdigest())
        with _translated():
            answer = await self._stub.PutMedia(_put(output.data, sha256), metadata=_bearer(capability))
        return messages.artifact(output, media_id=answer.media.media_id, sha256=sha256)


class Adapters:
    """LoraService, with a cache on this machine: files by tenant and digest, the longest unused dropped first."""

    def __init__(self, channel: grpc.aio.Channel, folder: Path, *, bytes_max: int) -> None:
        self._stub = lora_service_pb2_grpc.LoraServiceStub(channel)
        self._folder = folder
        self._bytes_max = bytes_max
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}

    async def fetch(self, tenant_id: str, adapter_id: str, capability: str) -> AdapterFile:
        """The adapter's file, fetched if it is not here; NotFound if it is gone or another tenant's.

        The store is asked each time, so that a deleted adapter is refused although its bytes are still here.
        """
        request = lora_service_pb2.GetLoraRequest(adapter_id=adapter_id)
        with _translated():
            lora = (await self._stub.GetLora(request, metadata=_bearer(capability))).lora
        path = self._folder / tenant_id / f"{lora.sha256}.safetensors"
        async with self._locks.setdefault((tenant_id, lora.sha256), asyncio.Lock()):
            if not path.exists():
                await self._pull(adapter_id, capability, path, lora.sha256)
                await asyncio.to_thread(self._make_room, path)
            os.utime(path)
        return AdapterFile(path, lora.sha256)

    async def _pull(self, adapter_id: str, capability: str, path: Path, sha256: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        digest, draft = hashlib.sha256(), path.with_suffix(f".{os.getpid()}.part")
        try:
            with _translated(), draft.open("wb") as file:
                request = lora_service_pb2.PullLoraRequest(adapter_id=adapter_id)
                async for part in self._stub.PullLora(request, metadata=_bearer(capability)):
                    digest.update(part.chunk)
                    file.write(part.chunk)
            if digest.hexdigest() != sha256:
                raise errors.Unavailable("lora_store sent other bytes than it announced")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    def _make_room(self, newest: Path) -> None:
        files = sorted(self._folder.rglob("*.safetensors"), key=lambda file: file.stat().st_mtime)
        total = sum(file.stat().st_size for file in files)
        for file in files:
            if total <= self._bytes_max or file == newest:
                return
            total -= file.stat().st_size
            file.unlink(missing_ok=True)


async def _put(data: bytes, sha256: str) -> AsyncIterator[media_service_pb2.PutMediaRequest]:
    header = media_service_pb2.PutMediaHeader(sha256=sha256, size_bytes=len(data))
    yield media_service_pb2.PutMediaRequest(header=header)
    for start in range(0, len(data), CHUNK_BYTES):
        yield media_service_pb2.PutMediaRequest(chunk=data[start : start + CHUNK_BYTES])


def _bearer(capability: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {capability}"),)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise rpc.from_rpc_error(error) from None
