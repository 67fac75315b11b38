"""Files that come in by a client stream: a header, then chunks in order.

A servicer reads the header, checks it, and hands the rest of the stream to `Receiver.receive`; what goes out is the whole file in a
nameless temporary file, its length and digest checked against the header. A stream that is cut, stalls or lies leaves nothing, and
neither does a killed process, since the file never had a name. `read` then feeds the bytes to `blobs`.
"""

import asyncio
import contextlib
import hashlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, TypeVar

from darkroom import errors

CHUNK_BYTES_MAX = 1 << 20


class Header(Protocol):
    """What every upload's header says."""

    @property
    def sha256(self) -> str:
        """Lower-case hex digest of the whole file; empty means it is not checked."""
        ...

    @property
    def size_bytes(self) -> int:
        """Length of the whole file."""
        ...


HeaderType = TypeVar("HeaderType", bound=Header, covariant=True)


class Part(Protocol[HeaderType]):
    """One message of an upload: its oneof `part` is a header or a chunk."""

    @property
    def header(self) -> HeaderType:
        """The header, when it is set."""
        ...

    @property
    def chunk(self) -> bytes:
        """The next bytes, when they are set."""
        ...

    def WhichOneof(self, oneof_group: Any, /) -> str | None:
        """Name of the member that is set."""
        ...


class Spooled(NamedTuple):
    """A file received whole."""

    file: IO[bytes]
    size_bytes: int
    sha256: str


class Receiver:
    """Receives at most `uploads_max` files at once into `directory` (made if missing; empty: the system's)."""

    def __init__(self, *, directory: str, uploads_max: int, chunk_timeout_s: float) -> None:
        if directory:
            Path(directory).mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory = directory or None
        self._free = uploads_max
        self._chunk_timeout_s = chunk_timeout_s

    async def header(self, parts: AsyncIterator[Part[HeaderType]]) -> HeaderType:
        """Read the first message; InvalidArgument if it is not the header."""
        first = await self._next(parts)
        if first is None or first.WhichOneof("part") != "header":
            raise errors.InvalidArgument.of("header", "must be the first message")
        return first.header

    @contextlib.asynccontextmanager
    async def receive(self, parts: AsyncIterator[Part[HeaderType]], header: Header) -> AsyncIterator[Spooled]:
        """Spool the chunks that follow the header, and lend the file; InvalidArgument if they are not what it said."""
        if not self._free:
            raise errors.ResourceExhausted("UPLOADS_FULL", "too many uploads are under way", retry_after_s=5.0)
        self._free -= 1
        try:
            with tempfile.TemporaryFile(dir=self._directory, buffering=0) as file:
                yield await self._spool(parts, header, file)
        finally:
            self._free += 1

    async def _spool(self, parts: AsyncIterator[Part[HeaderType]], header: Header, file: IO[bytes]) -> Spooled:
        digest = hashlib.sha256()
        size_bytes = 0
        while (part := await self._next(parts)) is not None:
            chunk = _chunk(part)
            size_bytes += len(chunk)
            if size_bytes > header.size_bytes:
                raise errors.InvalidArgument.of("header.size_bytes", "is less than the bytes that were sent")
            await asyncio.to_thread(_append, file, chunk)
            await asyncio.to_thread(digest.update, chunk)
        if size_bytes < header.size_bytes:
            raise errors.InvalidArgument.of("header.size_bytes", "is more than the bytes that were sent")
        if header.sha256 and digest.hexdigest() != header.sha256:
            raise errors.InvalidArgument.of("header.sha256", "is not the digest of the bytes that were sent")
        return Spooled(file, size_bytes, digest.hexdigest())

    async def _next(self, parts: AsyncIterator[Part[HeaderType]]) -> Part[HeaderType] | None:
        try:
            async with asyncio.timeout(self._chunk_timeout_s):
                return await anext(parts, None)
        except TimeoutError as error:
            raise errors.DeadlineExceeded("the next chunk did not come in time; send the file again") from error


async def read(file: IO[bytes], *, chunk_bytes: int = CHUNK_BYTES_MAX) -> AsyncIterator[bytes]:
    """Read a spooled file from its start."""
    file.seek(0)
    while chunk := await asyncio.to_thread(file.read, chunk_bytes):
        yield chunk


def _chunk(part: Part[Any]) -> bytes:
    if part.WhichOneof("part") == "header":
        raise errors.InvalidArgument.of("header", "must be sent once, first")
    if not 1 <= len(part.chunk) <= CHUNK_BYTES_MAX:
        raise errors.InvalidArgument.of("chunk", f"must be 1 to {CHUNK_BYTES_MAX} bytes")
    return part.chunk


def _append(file: IO[bytes], chunk: bytes) -> None:
    rest = memoryview(chunk)
    try:
        while rest:  # an unbuffered file writes what fits on the disk, then fails
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise errors.ResourceExhausted("SPOOL_FULL", "there is no room for uploads now", retry_after_s=30.0) from error
