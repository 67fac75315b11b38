"""The other rooms a runner calls: the scheduler, lora_store and media_store. The only file with their stubs.

Ids and bytes come in with the attempt's capability; files, artifacts and registrations go out, every refusal as a `DarkroomError`. A store
that is away for some seconds, as for a restart, or has too much to do, is waited for: the work before was dearer than the waiting.
"""

import asyncio
import collections
import contextlib
import datetime
import errno
import hashlib
import os
import secrets
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import grpc
import tenacity

from darkroom import errors, rpc
from darkroom.api.lora_store.v1 import lora_service_pb2, lora_service_pb2_grpc
from darkroom.api.media_store.v1 import media_service_pb2, media_service_pb2_grpc
from darkroom.api.scheduler.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from darkroom.api.types.v1 import device_pb2, media_pb2
from darkroom.model_runner.domain import Identity
from darkroom.model_runner.engine import job as engine_job

CHUNK_BYTES = 512 * 1024
PATIENCE_S = 30.0

_PASSING = (errors.Unavailable, errors.ResourceExhausted, errors.Aborted, errors.DeadlineExceeded)

_patient = tenacity.retry(
    retry=tenacity.retry_if_exception_type(_PASSING),
    wait=tenacity.wait_random_exponential(multiplier=0.1, max=2.0),
    stop=tenacity.stop_after_delay(PATIENCE_S),
    reraise=True,
)


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
    """MediaService, for artifacts and checkpoints."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = media_service_pb2_grpc.MediaServiceStub(channel)

    @_patient
    async def put(self, output: engine_job.Output, capability: str) -> media_pb2.Artifact:
        """Store one output; the same bytes of the same generation get the same id."""
        digest = await asyncio.to_thread(hashlib.sha256, output.data)
        with _translated():
            answer = await self._stub.PutMedia(_parts(output.data, digest.hexdigest()), metadata=_bearer(capability))
        return media_pb2.Artifact(
            media_id=answer.media.media_id,
            media_type=output.media_type,
            sha256=digest.hexdigest(),
            size_bytes=len(output.data),
            width=output.width,
            height=output.height,
            duration_us=output.duration_us,
            seed=output.seed,
            quality=media_pb2.QualityTier.Value(f"QUALITY_TIER_{output.tier}"),
        )

    @_patient
    async def keep(self, data: bytes, capability: str, *, retention_s: float) -> str:
        """Store a checkpoint for a while; its id."""
        digest = await asyncio.to_thread(hashlib.sha256, data)
        with _translated():
            parts = _parts(data, digest.hexdigest(), retention_s=retention_s)
            answer = await self._stub.PutMedia(parts, metadata=_bearer(capability))
        return answer.media.media_id

    @_patient
    async def read(self, media_id: str, capability: str, *, bytes_max: int | None = None) -> bytes:
        """A piece's bytes; NotFound if it is gone, or another tenant's, InvalidArgument if it is longer than that.

        They have the digest under which the store's database has them: whoever writes to the bucket alone changes none.
        """
        request = media_service_pb2.ReadMediaRequest(media_id=media_id)
        answers = self._stub.ReadMedia(request, metadata=_bearer(capability))
        chunks, sha256 = [], ""
        try:
            with _translated():
                async for answer in answers:
                    if bytes_max is not None and answer.media.size_bytes > bytes_max:  # told first
                        raise errors.InvalidArgument.of("media_id", f"must name at most {bytes_max} bytes")
                    sha256 = sha256 or answer.media.sha256
                    chunks.append(answer.chunk)
        finally:
            answers.cancel()
        data = b"".join(chunks)
        if (await asyncio.to_thread(hashlib.sha256, data)).hexdigest() != sha256:
            raise errors.Internal("media_store sent other bytes than it announced")
        return data


class AdapterFile(NamedTuple):
    """An adapter on this machine, whose digest was checked by this process."""

    path: Path
    sha256: str


class Adapters:
    """LoraService, with a cache on this machine: files by tenant and digest, the longest unused removed first.

    Several runners may share the folder; each trusts only what it has checked itself.
    """

    def __init__(self, channel: grpc.aio.Channel, folder: Path, *, bytes_max: int) -> None:
        self._stub = lora_service_pb2_grpc.LoraServiceStub(channel)
        self._folder = folder
        self._bytes_max = bytes_max
        self._checked: set[Path] = set()
        self._in_use: collections.Counter[Path] = collections.Counter()
        self._locks: weakref.WeakValueDictionary[Path, asyncio.Lock] = weakref.WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def lease(self, tenant_id: str, adapter_id: str, capability: str) -> AsyncIterator[AdapterFile]:
        """The adapter's file, which is not removed within; NotFound if it is deleted or another tenant's.

        The store is asked each time, so that a deleted adapter is refused although its bytes are still here.
        """
        lora = await self._describe(adapter_id, capability)
        path = self._folder / tenant_id / f"{lora.sha256}.safetensors"
        lock = self._locks.setdefault(path, asyncio.Lock())
        self._in_use[path] += 1
        try:
            async with lock:
                if not await asyncio.to_thread(self._has, path, lora.sha256):
                    await self._pull(adapter_id, capability, path, lora.sha256)
            yield AdapterFile(path, lora.sha256)
        finally:
            self._in_use[path] -= 1
            if not self._in_use[path]:
                del self._in_use[path]

    @_patient
    async def _describe(self, adapter_id: str, capability: str) -> lora_service_pb2.Lora:
        request = lora_service_pb2.GetLoraRequest(adapter_id=adapter_id)
        with _translated():
            return (await self._stub.GetLora(request, metadata=_bearer(capability))).lora

    @_patient
    async def _pull(self, adapter_id: str, capability: str, path: Path, sha256: str) -> None:
        draft = path.with_suffix(f".{secrets.token_hex(4)}.part")
        self._in_use[draft] += 1
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with draft.open("xb") as file:
                digest = await self._copy(adapter_id, capability, file)
            if digest != sha256:
                raise errors.Unavailable("lora_store sent other bytes than it announced")
            draft.replace(path)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):  # there is less room than this cache was told
                await self._make_room(bytes_max=0)
            raise errors.Unavailable(f"the runner cannot keep adapters on its disk ({error.strerror})") from error
        finally:
            draft.unlink(missing_ok=True)
            del self._in_use[draft]
        self._checked.add(path)
        await self._make_room(bytes_max=self._bytes_max)

    async def _copy(self, adapter_id: str, capability: str, file: IO[bytes]) -> str:
        digest = hashlib.sha256()

        def append(chunk: bytes) -> None:
            digest.update(chunk)
            file.write(chunk)

        request = lora_service_pb2.PullLoraRequest(adapter_id=adapter_id)
        with _translated():
            async for part in self._stub.PullLora(request, metadata=_bearer(capability)):
                await asyncio.to_thread(append, part.chunk)
        return digest.hexdigest()

    def _has(self, path: Path, sha256: str) -> bool:
        """Whether the file is here and its bytes are right."""
        try:
            os.utime(path)  # it is used now
            if path not in self._checked:
                with path.open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                        return False
        except FileNotFoundError:
            return False
        self._checked.add(path)
        return True

    async def _make_room(self, *, bytes_max: int) -> None:
        kept = await asyncio.to_thread(self._kept)
        excess_bytes = sum(size_bytes for _, size_bytes, _ in kept) - bytes_max
        for _, size_bytes, path in kept:
            if excess_bytes > 0 and path not in self._in_use:
                excess_bytes -= size_bytes
                path.unlink(missing_ok=True)
                self._checked.discard(path)

    def _kept(self) -> list[tuple[float, int, Path]]:
        """When last used, length and path of every file, the longest unused first."""
        found = []
        for path in self._folder.rglob("*.*"):
            with contextlib.suppress(FileNotFoundError):  # another runner removed it
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path))
        return sorted(found)


async def _parts(
    data: bytes, sha256: str, *, retention_s: float | None = None
) -> AsyncIterator[media_service_pb2.PutMediaRequest]:
    header = media_service_pb2.PutMediaHeader(sha256=sha256, size_bytes=len(data))
    if retention_s is not None:
        header.retention.FromTimedelta(datetime.timedelta(seconds=retention_s))
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
