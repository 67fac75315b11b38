import asyncio
import hashlib
import importlib.resources
import pathlib
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import pytest

from darkroom import blobs, errors, postgres
from darkroom.media_store import domain, store

RAW = b"not checked here"


class Rig(NamedTuple):
    media: store.Store
    database: postgres.Database
    directory: pathlib.Path

    async def put(self, **changes: Any) -> domain.Media:
        return await self.media.put(upload(**changes), read())

    async def pass_time(self, interval: str) -> None:
        """Let everything stored be older by an interval of PostgreSQL."""
        await self.database.execute("UPDATE media SET expires_at = expires_at - $1::text::interval", interval)

    def files(self) -> int:
        return sum(path.is_file() for path in self.directory.rglob("*"))


@pytest.fixture
async def rig(database_url: str, tmp_path: pathlib.Path) -> AsyncIterator[Rig]:
    async with postgres.connect(database_url, schema="media_store") as database:
        await database.migrate(importlib.resources.files("darkroom.media_store") / "migrations")
        yield Rig(store.Store(database, blobs.open_store(f"file://{tmp_path}")), database, tmp_path)


def upload(raw: bytes = RAW, **changes: Any) -> domain.Upload:
    fields = {
        "tenant_id": "ten_a",
        "generation_id": "",
        "media_type": "image/png",
        "sha256": hashlib.sha256(raw).hexdigest(),
        "size_bytes": len(raw),
        "retention_s": None,
    }
    return domain.Upload(**{**fields, **changes})


def read(*, cut: bool = False) -> Callable[[], AsyncIterator[bytes]]:
    async def chunks() -> AsyncIterator[bytes]:
        yield RAW[:4]
        if cut:
            raise ConnectionResetError
        yield RAW[4:]

    return chunks


async def test_what_is_stored_is_what_was_put(rig: Rig) -> None:
    media = await rig.put(generation_id="gen_1", retention_s=120.0)
    assert (media.tenant_id, media.generation_id, media.media_type) == ("ten_a", "gen_1", "image/png")
    assert media.expires_at is not None
    assert (media.expires_at - media.created_at).total_seconds() == 120.0
    assert await rig.media.get("ten_a", media.media_id) == media
    assert b"".join([chunk async for chunk in rig.media.read(media)]) == RAW
    assert b"".join([chunk async for chunk in rig.media.read(media, offset_bytes=3, size_bytes=5)]) == RAW[3:8]
    assert await rig.media.url(media, expires_in_s=60.0) is None


async def test_the_same_bytes_of_the_same_generation_are_the_same_piece(rig: Rig) -> None:
    again = await asyncio.gather(*[rig.put(generation_id="gen_1") for _ in range(8)])
    assert len({media.media_id for media in again}) == 1
    others = [await rig.put(generation_id="gen_2"), await rig.put(), await rig.put(tenant_id="ten_b")]
    assert len({media.media_id for media in [*again, *others]}) == 4
    assert rig.files() == 2


@pytest.mark.parametrize(
    ("first", "second", "kept"), [(60.0, 120.0, 120), (120.0, 60.0, 120), (60.0, None, None), (None, 60.0, None)]
)
async def test_the_longer_retention_counts(
    rig: Rig, first: float | None, second: float | None, kept: int | None
) -> None:
    await rig.put(retention_s=first)
    media = await rig.put(retention_s=second)
    left = None if media.expires_at is None else (media.expires_at - media.created_at).total_seconds()
    assert left == kept if left is None else kept is not None and kept <= left < kept + 30


async def test_what_has_expired_is_gone_at_once_and_then_its_bytes(rig: Rig) -> None:
    brief = await rig.put(retention_s=60.0)
    longer = await rig.put(retention_s=3600.0, generation_id="gen_1")
    kept = await rig.put(tenant_id="ten_b")
    assert await rig.media.expire() == 0
    await rig.pass_time("10 minutes")
    with pytest.raises(errors.NotFound):
        await rig.media.get("ten_a", brief.media_id)
    assert await rig.media.expire() == 1
    assert b"".join([chunk async for chunk in rig.media.read(longer)]) == RAW
    await rig.pass_time("2 hours")
    assert await rig.media.expire() == 1
    assert rig.files() == 1
    assert b"".join([chunk async for chunk in rig.media.read(kept)]) == RAW


async def test_what_expired_and_is_put_again_is_there_again(rig: Rig) -> None:
    await rig.put(retention_s=60.0)
    await rig.pass_time("10 minutes")
    again = await rig.put(retention_s=60.0)
    assert await rig.media.expire() == 0
    assert await rig.media.get("ten_a", again.media_id) == again


async def test_shared_bytes_go_with_the_last_piece(rig: Rig) -> None:
    first, second = await rig.put(), await rig.put(generation_id="gen_1")
    await rig.media.delete("ten_a", first.media_id)
    await rig.media.delete("ten_a", first.media_id)
    assert b"".join([chunk async for chunk in rig.media.read(second)]) == RAW
    await rig.media.delete("ten_a", second.media_id)
    assert rig.files() == 0
    with pytest.raises(errors.NotFound, match=second.media_id):
        await anext(rig.media.read(second))
    with pytest.raises(errors.NotFound):
        await rig.media.delete("ten_b", first.media_id)


async def test_a_put_that_dies_leaves_nothing_but_bytes_that_are_swept(rig: Rig) -> None:
    with pytest.raises(errors.DarkroomError):
        await rig.media.put(upload(), read(cut=True))
    assert await rig.database.fetchval("SELECT count(*) FROM media") == 0
    assert await rig.media.sweep(age_s=3600) == 0
    assert await rig.media.sweep(age_s=0) == 1
    assert rig.files() == 0


async def test_a_put_whose_bytes_are_swept_before_its_row_stores_them_again(rig: Rig) -> None:
    swept: list[int] = []

    async def chunks() -> AsyncIterator[bytes]:
        yield RAW
        if not swept:
            swept.append(await rig.media.sweep(age_s=0))

    media = await rig.media.put(upload(), chunks)
    assert swept == [1]
    assert b"".join([chunk async for chunk in rig.media.read(media)]) == RAW


async def test_a_cloud_signs_its_own_urls(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in [("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "secret"), ("REGION", "eu-west-1")]:
        monkeypatch.setenv(f"AWS_{name}", value)
    media = await rig.put()
    cloud = store.Store(rig.database, blobs.open_store("s3://bucket/prefix"))
    url = await cloud.url(media, expires_in_s=60.0)
    assert url is not None
    assert f"/prefix/media/ten_a/{media.sha256}?" in url
    assert "X-Amz-Expires=60&" in url
