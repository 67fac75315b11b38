"""Bytes to and from the stores.

A file comes in as a push stream; a read stream goes out as a file, checked against its digest, never half written.
"""

import hashlib
import pathlib
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from typing import Protocol

from darkroom.api.lora_store.v1 import lora_service_pb2 as lora_pb
from darkroom.api.media_store.v1 import media_service_pb2 as media_pb

CHUNK_BYTES = 1 << 20


def sha256(path: pathlib.Path) -> str:
    """Lower-case hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def parts(header: lora_pb.PushLoraHeader, path: pathlib.Path) -> AsyncIterator[lora_pb.PushLoraRequest]:
    """The messages of one push: the header, then the file in chunks."""
    yield lora_pb.PushLoraRequest(header=header)
    for chunk in _chunks(path):
        yield lora_pb.PushLoraRequest(chunk=chunk)


async def media_parts(path: pathlib.Path) -> AsyncIterator[media_pb.PutMediaRequest]:
    """The messages of one put of a picture: its header, then the file in chunks."""
    header = media_pb.PutMediaHeader(sha256=sha256(path), size_bytes=path.stat().st_size)
    yield media_pb.PutMediaRequest(header=header)
    for chunk in _chunks(path):
        yield media_pb.PutMediaRequest(chunk=chunk)


def _chunks(path: pathlib.Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


class Part(Protocol):
    """A message of a read stream."""

    chunk: bytes


async def write_checked(parts: AsyncIterable[Part], path: pathlib.Path, sha256: str) -> None:
    """Write a read stream to a file; ValueError if its bytes have another digest. No half file is left."""
    digest, draft = hashlib.sha256(), path.with_name(f".{path.name}.part")
    try:
        with draft.open("wb") as file:
            async for part in parts:
                digest.update(part.chunk)
                file.write(part.chunk)
        if digest.hexdigest() != sha256:
            raise ValueError(f"the bytes read for {path.name} are not those that were stored")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
