import asyncio

import aiohttp
from google.protobuf import duration_pb2

from darkroom import ids
from darkroom.api.media_store.v1 import media_service_pb2 as pb
from tests.lora_store import adapters
from tests.media_store.conftest import Room, image, png

TENANT = ids.new("ten")
RAW = png()


async def sign(room: Room, media_id: str, *, seconds: int = 60) -> str:
    request = pb.SignMediaUrlRequest(media_id=media_id, expires_in=duration_pb2.Duration(seconds=seconds))
    return str((await room.stub.SignMediaUrl(request, metadata=room.as_(TENANT))).url)


async def status(url: str, **options: object) -> int:
    async with aiohttp.request("GET", url, **options) as response:  # type: ignore[arg-type]
        return response.status


async def test_a_url_gives_the_piece_as_what_it_is(room: Room) -> None:
    for raw, media_type, disposition in [
        (RAW, "image/png", 'inline; filename="{}.png"'),
        (image("JPEG"), "image/jpeg", 'inline; filename="{}.jpg"'),
        (adapters.good(), "application/vnd.safetensors", 'attachment; filename="{}.safetensors"'),
    ]:
        media = await room.put(TENANT, raw)
        async with aiohttp.request("GET", await sign(room, media.media_id)) as response:
            assert await response.read() == raw
            assert response.status == 200
            assert response.headers["Content-Type"] == media_type
            assert response.headers["Content-Disposition"] == disposition.format(media.media_id)
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert "sandbox" in response.headers["Content-Security-Policy"]
            assert response.headers["ETag"] == f'"{media.sha256}"'


async def test_head_tells_without_the_bytes(room: Room) -> None:
    url = await sign(room, (await room.put(TENANT, RAW)).media_id)
    async with aiohttp.request("HEAD", url) as response:
        assert (response.status, await response.read()) == (200, b"")
        assert response.headers["Content-Length"] == str(len(RAW))
        assert response.headers["Accept-Ranges"] == "bytes"


RANGES = [
    ("bytes=0-3", 0, 4),
    ("bytes=4-", 4, None),
    ("bytes=-5", -5, None),
    ("bytes=3-99999", 3, None),
    ("bytes=0-0", 0, 1),
]


async def test_a_range_gives_its_bytes(room: Room) -> None:
    url = await sign(room, (await room.put(TENANT, RAW)).media_id)
    for asked, begin, end in RANGES:
        async with aiohttp.request("GET", url, headers={"Range": asked}) as response:
            assert response.status == 206
            assert await response.read() == RAW[begin:end]
            first, last, _ = slice(begin, end).indices(len(RAW))
            assert response.headers["Content-Range"] == f"bytes {first}-{last - 1}/{len(RAW)}"


async def test_a_range_outside_is_refused_and_nonsense_ignored(room: Room) -> None:
    url = await sign(room, (await room.put(TENANT, RAW)).media_id)
    async with aiohttp.request("GET", url, headers={"Range": f"bytes={len(RAW)}-"}) as response:
        assert response.status == 416
        assert response.headers["Content-Range"] == f"bytes */{len(RAW)}"
    for nonsense in ("bytes=5-2", "bytes=0-1,4-5", "lines=1-2", "bytes=a-b"):
        assert await status(url, headers={"Range": nonsense}) == 200


async def test_forged_deleted_and_expired_are_all_not_found(room: Room) -> None:
    media = await room.put(TENANT, RAW)
    url = await sign(room, media.media_id)
    base, _, token = url.rpartition("/")
    for forged in ("x", token[:-1], "A" + token[1:], token + ".x", "%00", "..%2f..%2fetc%2fpasswd", "a" * 3000):
        assert await status(f"{base}/{forged}") == 404
    assert await status(base) == 404
    await room.database.execute("UPDATE media SET expires_at = now()")
    assert await status(url) == 404
    again = await room.put(TENANT, RAW)
    url = await sign(room, again.media_id)
    assert await status(url) == 200
    await room.delete(TENANT, again.media_id)
    assert await status(url) == 404


async def test_a_url_never_outlives_its_piece(room: Room) -> None:
    media = await room.put(TENANT, RAW, retention=duration_pb2.Duration(seconds=60))
    request = pb.SignMediaUrlRequest(media_id=media.media_id)
    signed = await room.stub.SignMediaUrl(request, metadata=room.as_(TENANT))
    assert signed.expires_at == media.expires_at


async def test_only_reading_is_allowed(room: Room) -> None:
    url = await sign(room, (await room.put(TENANT, RAW)).media_id)
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        async with aiohttp.request(method, url) as response:
            assert response.status == 405


async def test_a_client_that_leaves_hurts_nobody(room: Room) -> None:
    media = await room.put(TENANT, adapters.file(*adapters.entries({"x": ("F32", (2_000_000,), [1.0] * 2_000_000)})))
    url = await sign(room, media.media_id)
    host, port = url.removeprefix("http://").partition("/")[0].split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /{url.partition('//')[2].partition('/')[2]} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await writer.drain()
    writer.transport.abort()
    assert await status(url) == 200
