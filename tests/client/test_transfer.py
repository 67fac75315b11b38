import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from darkroom.api.lora_store.v1 import lora_service_pb2 as lora_pb
from darkroom.client import transfer

DATA = bytes(range(256)) * 10_000  # 2.4 chunks


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(DATA)
    return path


async def stream(*chunks: bytes, error: Exception | None = None) -> AsyncIterator[lora_pb.PullLoraResponse]:
    for chunk in chunks:
        yield lora_pb.PullLoraResponse(chunk=chunk)
    if error:
        raise error


async def test_a_push_is_a_header_and_chunks(path: Path) -> None:
    header = lora_pb.PushLoraHeader(name="adapter", sha256=transfer.sha256(path))
    first, *rest = [message async for message in transfer.parts(header, path)]
    assert first.header == header
    assert header.sha256 == hashlib.sha256(DATA).hexdigest()
    assert [len(message.chunk) for message in rest] == [1 << 20, 1 << 20, len(DATA) - (2 << 20)]
    assert b"".join(message.chunk for message in rest) == DATA


async def test_a_put_is_a_header_and_chunks(path: Path) -> None:
    first, *rest = [message async for message in transfer.media_parts(path)]
    assert (first.header.size_bytes, first.header.sha256) == (len(DATA), hashlib.sha256(DATA).hexdigest())
    assert [len(message.chunk) for message in rest] == [1 << 20, 1 << 20, len(DATA) - (2 << 20)]
    assert b"".join(message.chunk for message in rest) == DATA


async def test_what_is_read_is_written(tmp_path: Path) -> None:
    path = tmp_path / "circle.png"
    path.write_bytes(b"old")
    await transfer.write_checked(stream(b"ne", b"w"), path, hashlib.sha256(b"new").hexdigest())
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


async def test_other_bytes_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the bytes read for circle\.png are not those that were stored"):
        await transfer.write_checked(stream(b"new"), tmp_path / "circle.png", "0" * 64)
    assert list(tmp_path.iterdir()) == []


async def test_a_stream_that_breaks_leaves_what_was_there(path: Path) -> None:
    with pytest.raises(ConnectionError):
        await transfer.write_checked(stream(b"new", error=ConnectionError()), path, hashlib.sha256(b"new").hexdigest())
    assert path.read_bytes() == DATA
    assert list(path.parent.iterdir()) == [path]
