import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2

from darkroom import errors, ids, rpc
from darkroom.api.media_store.v1 import media_service_pb2 as pb
from tests.lora_store import adapters
from tests.media_store.conftest import Room, parts, png

TENANT, OTHER = ids.new("ten"), ids.new("ten")
RAW = png()


async def refusal(call: Any) -> errors.DarkroomError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return rpc.from_rpc_error(raised.value)


async def invalid(call: Any) -> list[str]:
    error = await refusal(call)
    assert isinstance(error, errors.InvalidArgument), repr(error)
    return [violation.field for violation in error.violations]


async def read(room: Room, tenant_id: str, media_id: str, *, offset_bytes: int = 0) -> tuple[pb.Media, bytes]:
    request = pb.ReadMediaRequest(media_id=media_id, offset_bytes=offset_bytes)
    messages = [message async for message in room.stub.ReadMedia(request, metadata=room.as_(tenant_id))]
    assert [message.WhichOneof("part") for message in messages] == ["media"] + ["chunk"] * (len(messages) - 1)
    return messages[0].media, b"".join(message.chunk for message in messages[1:])


async def test_what_is_put_is_described_read_and_deleted(room: Room) -> None:
    generation_id = ids.new("gen")
    media = await room.put(TENANT, RAW, generation_id=generation_id, chunk_bytes=7)
    assert (media.media_type, media.sha256) == ("image/png", hashlib.sha256(RAW).hexdigest())
    assert (media.size_bytes, media.generation_id) == (len(RAW), generation_id)
    assert media.created_at.seconds > 0
    assert not media.HasField("expires_at")
    metadata = room.as_(TENANT)
    assert (await room.stub.GetMedia(pb.GetMediaRequest(media_id=media.media_id), metadata=metadata)).media == media
    assert await read(room, TENANT, media.media_id) == (media, RAW)
    for _ in range(2):
        await room.delete(TENANT, media.media_id)
    gone = await refusal(room.stub.GetMedia(pb.GetMediaRequest(media_id=media.media_id), metadata=metadata))
    assert isinstance(gone, errors.NotFound)
    assert not room.files()


async def test_a_broken_read_goes_on_from_its_offset(room: Room) -> None:
    tensors: adapters.Tensors = {"noise": ("F32", (700_000,), [float(n) for n in range(700_000)])}
    raw = adapters.file(*adapters.entries(tensors))
    media = await room.put(TENANT, raw)
    assert media.media_type == "application/vnd.safetensors"
    for offset_bytes in (0, 1, 600_001, len(raw) - 1, len(raw)):
        assert await read(room, TENANT, media.media_id, offset_bytes=offset_bytes) == (media, raw[offset_bytes:])


async def test_a_put_again_is_the_same_piece(room: Room) -> None:
    generation_id = ids.new("gen")
    answers = await asyncio.gather(*[room.put(TENANT, RAW, generation_id=generation_id) for _ in range(8)])
    assert len({media.media_id for media in answers}) == 1
    assert (await room.put(TENANT, RAW)).media_id != answers[0].media_id
    assert len(room.files()) == 1


async def test_retention_ends_a_piece(room: Room) -> None:
    media = await room.put(TENANT, RAW, retention=duration_pb2.Duration(seconds=60))
    assert media.expires_at.seconds - media.created_at.seconds in (60, 61)
    await room.database.execute("UPDATE media SET expires_at = now()")
    request = pb.GetMediaRequest(media_id=media.media_id)
    assert isinstance(await refusal(room.stub.GetMedia(request, metadata=room.as_(TENANT))), errors.NotFound)
    while room.files():  # noqa: ASYNC110  # the room's own sweep takes the bytes
        await asyncio.sleep(0.02)


SECONDS = duration_pb2.Duration
BAD_PUTS = {
    "digest upper": ({"sha256": "A" * 64}, ["header.sha256"]),
    "digest short": ({"sha256": "a" * 63}, ["header.sha256"]),
    "digest of another file": ({"sha256": "0" * 64}, ["header.sha256"]),
    "size 0": ({"size_bytes": 0}, ["header.size_bytes"]),
    "size -1": ({"size_bytes": -1}, ["header.size_bytes"]),
    "size over the limit": ({"size_bytes": 2**30 + 1}, ["header.size_bytes"]),
    "size less than sent": ({"size_bytes": len(RAW) - 1}, ["header.size_bytes"]),
    "size more than sent": ({"size_bytes": len(RAW) + 1}, ["header.size_bytes"]),
    "retention 0": ({"retention": SECONDS()}, ["header.retention"]),
    "retention negative": ({"retention": SECONDS(seconds=-60)}, ["header.retention"]),
    "retention of a century": ({"retention": SECONDS(seconds=100 * 366 * 86_400)}, ["header.retention"]),
    "retention out of its own range": ({"retention": SECONDS(seconds=60, nanos=-1)}, ["header.retention"]),
    "both": ({"sha256": "x", "size_bytes": 0}, ["header.sha256", "header.size_bytes"]),
}


async def test_a_bad_put_is_refused_by_field_and_leaves_nothing(room: Room) -> None:
    for case, (changes, fields) in BAD_PUTS.items():
        assert await invalid(room.put(TENANT, RAW, **changes)) == fields, case
    for raw in (b"<html></html>", b"\x80\x04\x95 a pickle", RAW[:-1], RAW + b"more", png(width=2048, height=2048)):
        assert await invalid(room.put(TENANT, raw)) == ["chunk"]
    assert not room.files()
    assert not list(room.spool.iterdir())
    assert await room.database.fetchval("SELECT count(*) FROM blob") == 0


async def test_messages_out_of_order_are_refused(room: Room) -> None:
    header, chunk = parts(RAW)
    for messages, field in [
        ([], "header"),
        ([chunk, header], "header"),
        ([pb.PutMediaRequest()], "header"),
        ([header, header, chunk], "header"),
        ([header, pb.PutMediaRequest(), chunk], "chunk"),
        ([header, pb.PutMediaRequest(chunk=b"")], "chunk"),
    ]:
        assert await invalid(room.stub.PutMedia(iter(messages), metadata=room.as_(TENANT))) == [field]


async def test_a_cut_stream_leaves_nothing(room: Room) -> None:
    header, chunk, *_ = parts(RAW, chunk_bytes=16)
    sent = asyncio.Event()

    async def stall() -> AsyncIterator[pb.PutMediaRequest]:
        yield header
        yield chunk
        sent.set()
        await asyncio.Event().wait()

    call = room.stub.PutMedia(stall(), metadata=room.as_(TENANT))
    await sent.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not room.files()
    assert not list(room.spool.iterdir())
    assert await room.database.fetchval("SELECT count(*) FROM media") == 0


async def test_malformed_ids_offsets_and_expiries_are_refused(room: Room) -> None:
    media = await room.put(TENANT, RAW)
    metadata = room.as_(TENANT)
    for bad in ("", "x", "med_", "med_" + "G" * 32, "gen_" + "0" * 32, "../" * 20, "a" * 5000):
        for call in calls(room, bad, metadata):
            assert await invalid(call) == ["media_id"]
    for offset_bytes in (-1, len(RAW) + 1, 2**62):
        request = pb.ReadMediaRequest(media_id=media.media_id, offset_bytes=offset_bytes)
        assert await invalid(room.stub.ReadMedia(request, metadata=metadata).read()) == ["offset_bytes"]
    for seconds in (0, -1, 7 * 86_400 + 1, 10**11):
        request = pb.SignMediaUrlRequest(media_id=media.media_id, expires_in=SECONDS(seconds=seconds))
        assert await invalid(room.stub.SignMediaUrl(request, metadata=metadata)) == ["expires_in"]


async def test_another_tenants_media_is_as_missing(room: Room) -> None:
    media_id, missing = (await room.put(TENANT, RAW)).media_id, ids.new("med")
    metadata = room.as_(OTHER)
    for foreign, absent in zip(calls(room, media_id, metadata), calls(room, missing, metadata), strict=True):
        seen, unseen = await refusal(foreign), await refusal(absent)
        assert isinstance(seen, errors.NotFound)
        assert isinstance(unseen, errors.NotFound)
        assert str(seen).replace(media_id, missing) == str(unseen)
    assert (await read(room, TENANT, media_id))[1] == RAW


def calls(room: Room, media_id: str, metadata: Any) -> list[Any]:
    return [
        room.stub.GetMedia(pb.GetMediaRequest(media_id=media_id), metadata=metadata),
        room.stub.ReadMedia(pb.ReadMediaRequest(media_id=media_id), metadata=metadata).read(),
        room.stub.SignMediaUrl(pb.SignMediaUrlRequest(media_id=media_id), metadata=metadata),
        room.stub.DeleteMedia(pb.DeleteMediaRequest(media_id=media_id), metadata=metadata),
    ]


async def test_scopes_are_needed(room: Room) -> None:
    reader = room.as_(TENANT, scopes=("media.read",))
    assert isinstance(await refusal(room.stub.PutMedia(parts(RAW), metadata=reader)), errors.PermissionDenied)
    request = pb.GetMediaRequest(media_id=ids.new("med"))
    assert isinstance(await refusal(room.stub.GetMedia(request)), errors.Unauthenticated)
