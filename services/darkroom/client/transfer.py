"""Bytes to and from the stores.

A file comes in as a push stream; a read stream goes out as a file, checked against its digest, never half written.
"""

import hashlib
import pathlib
from collections.abc import AsyncIterable, AsyncIterator
from typing import Protocol

from darkroom.api.lora_store.v1 import lora_service_pb2 as lora_pb

CHUNK_BYTES = 1 << 20


def sha256(path: pathlib.Path) -> str:
    """Lower-case hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def parts(header: lora_pb.PushLoraHeader, path: pathlib.Path) -> AsyncIterator[lora_pb.PushLoraRequest]:
    """The messages of one push: the header, then the file in chunks."""
    yield lora_pb.PushLoraRequest(header=header)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield lora_pb.PushLoraRequest(chunk=chunk)


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
