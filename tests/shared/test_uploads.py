import asyncio
import hashlib
import pathlib
from collections.abc import AsyncIterator, Sequence

import pytest

from darkroom import errors, uploads
from darkroom.api.media_store.v1 import media_service_pb2 as pb

RAW = bytes(range(256)) * 20


def header(**changes: object) -> pb.PutMediaHeader:
    return pb.PutMediaHeader(**{"sha256": hashlib.sha256(RAW).hexdigest(), "size_bytes": len(RAW), **changes})  # type: ignore[arg-type]


def chunks(*sizes: int) -> list[pb.PutMediaRequest]:
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    return [pb.PutMediaRequest(chunk=RAW[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


async def stream(parts: Sequence[pb.PutMediaRequest]) -> AsyncIterator[pb.PutMediaRequest]:
    for part in parts:
        yield part


def receiver(directory: pathlib.Path, *, uploads_max: int = 1, chunk_timeout_s: float = 30.0) -> uploads.Receiver:
    return uploads.Receiver(directory=str(directory), uploads_max=uploads_max, chunk_timeout_s=chunk_timeout_s)


async def test_a_whole_file_is_lent_and_leaves_no_name(tmp_path: pathlib.Path) -> None:
    async with receiver(tmp_path).receive(stream(chunks(1, 1000, 4119)), header()) as spooled:
        assert (spooled.size_bytes, spooled.sha256) == (len(RAW), hashlib.sha256(RAW).hexdigest())
        assert b"".join([chunk async for chunk in uploads.read(spooled.file, chunk_bytes=999)]) == RAW
        assert not list(tmp_path.iterdir())
    assert spooled.file.closed


@pytest.mark.parametrize(
    ("parts", "changes", "field"),
    [
        (chunks(5119), {}, "header.size_bytes"),
        (chunks(5120), {"size_bytes": 5119}, "header.size_bytes"),
        (chunks(5120), {"sha256": "0" * 64}, "header.sha256"),
        ([*chunks(100), pb.PutMediaRequest(header=header())], {}, "header"),
        ([pb.PutMediaRequest(chunk=b"")], {}, "chunk"),
        ([pb.PutMediaRequest(chunk=bytes(uploads.CHUNK_BYTES_MAX + 1))], {"size_bytes": 1 << 30}, "chunk"),
        ([pb.PutMediaRequest()], {}, "chunk"),
    ],
)
async def test_a_stream_that_is_not_what_it_said_is_refused(
    tmp_path: pathlib.Path, parts: list[pb.PutMediaRequest], changes: dict[str, object], field: str
) -> None:
    receiving = receiver(tmp_path)
    for _ in range(2):  # the place of a refused upload is free again
        with pytest.raises(errors.InvalidArgument) as refusal:
            async with receiving.receive(stream(parts), header(**changes)):
                pytest.fail("nothing is lent")
        assert [violation.field for violation in refusal.value.violations] == [field]


async def test_no_digest_is_not_checked(tmp_path: pathlib.Path) -> None:
    async with receiver(tmp_path).receive(stream(chunks(5120)), header(sha256="")) as spooled:
        assert spooled.sha256 == hashlib.sha256(RAW).hexdigest()


@pytest.mark.parametrize("parts", [[], chunks(1), [pb.PutMediaRequest()]])
async def test_the_header_comes_first(tmp_path: pathlib.Path, parts: list[pb.PutMediaRequest]) -> None:
    with pytest.raises(errors.InvalidArgument) as refusal:
        await receiver(tmp_path).header(stream(parts))
    assert [violation.field for violation in refusal.value.violations] == ["header"]


async def test_a_stalled_stream_ends(tmp_path: pathlib.Path) -> None:
    async def stall() -> AsyncIterator[pb.PutMediaRequest]:
        yield chunks(1)[0]
        await asyncio.Event().wait()

    with pytest.raises(errors.DeadlineExceeded):
        async with receiver(tmp_path, chunk_timeout_s=0.01).receive(stall(), header()):
            pytest.fail("nothing is lent")


async def test_uploads_at_once_are_bounded(tmp_path: pathlib.Path) -> None:
    receiving = receiver(tmp_path)
    async with receiving.receive(stream(chunks(5120)), header()):
        with pytest.raises(errors.ResourceExhausted):
            async with receiving.receive(stream(chunks(5120)), header()):
                pytest.fail("nothing is lent")
    async with receiving.receive(stream(chunks(5120)), header()):
        pass


async def test_a_full_disk_is_said_and_passes(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "r+b", buffering=0) as full:  # a real ENOSPC at each write
        monkeypatch.setattr(uploads.tempfile, "TemporaryFile", lambda dir, buffering: full)
        with pytest.raises(errors.ResourceExhausted) as refusal:
            async with receiver(tmp_path).receive(stream(chunks(5120)), header()):
                pytest.fail("nothing is lent")
    assert refusal.value.reason == "SPOOL_FULL"
