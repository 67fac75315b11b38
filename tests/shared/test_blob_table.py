import asyncio
import hashlib
import pathlib
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

from darkroom import blob_table, blobs, errors, postgres

RAW = b"some bytes"
DIGEST = hashlib.sha256(RAW).hexdigest()
SCHEMA = """
CREATE SCHEMA room;
CREATE TABLE room.blob (
    blob_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    blob_key text NOT NULL UNIQUE,
    touched_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE room.thing (blob_id bigint REFERENCES room.blob);
"""


class Rig(NamedTuple):
    table: blob_table.BlobTable
    database: postgres.Database
    store: blobs.Blobs

    async def keep(self, key: str = "a/b") -> int:
        async def chunks() -> AsyncIterator[bytes]:
            yield RAW

        return await self.table.keep(key, chunks(), size_bytes=len(RAW), sha256=DIGEST)

    async def refer(self, blob_id: int) -> None:
        await self.database.execute("INSERT INTO thing (blob_id) VALUES ($1)", blob_id)


@pytest.fixture
async def rig(database_url: str, tmp_path: pathlib.Path) -> AsyncIterator[Rig]:
    store = blobs.open_store(f"file://{tmp_path}")
    async with postgres.connect(database_url, schema="room") as database:
        await database.execute(SCHEMA)
        yield Rig(blob_table.BlobTable(database, store, referenced_by="thing"), database, store)


async def test_kept_bytes_go_when_nothing_refers_to_them(rig: Rig) -> None:
    blob_id = await rig.keep()
    assert await rig.keep() == blob_id
    await rig.refer(blob_id)
    assert not await rig.table.release(blob_id)
    assert await rig.store.exists("a/b")
    await rig.database.execute("DELETE FROM thing")
    assert await rig.table.release(blob_id)
    assert not await rig.store.exists("a/b")
    assert not await rig.table.release(blob_id)
    assert await rig.keep() != blob_id


async def test_bytes_that_are_not_what_was_said_are_not_kept(rig: Rig) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"other bytes"

    with pytest.raises(errors.InvalidArgument):
        await rig.table.keep("a/b", chunks(), size_bytes=100, sha256=DIGEST)
    assert not await rig.store.exists("a/b")


async def test_a_sweep_takes_the_old_and_unused(rig: Rig) -> None:
    used, unused, fresh = await rig.keep("used"), await rig.keep("unused"), await rig.keep("fresh")
    await rig.refer(used)
    await rig.database.execute("UPDATE blob SET touched_at = now() - interval '1 hour' WHERE blob_id <> $1", fresh)
    assert await rig.table.sweep(age_s=600, rows_max=1) == 1
    assert await rig.table.sweep(age_s=600) == 0
    assert [await rig.store.exists(key) for key in ("used", "unused", "fresh")] == [True, False, True]
    assert unused != fresh


async def test_a_reference_that_comes_first_saves_the_bytes(rig: Rig) -> None:
    blob_id = await rig.keep()
    async with rig.database.transaction() as connection:
        await connection.execute("SELECT 1 FROM blob WHERE blob_id = $1 FOR KEY SHARE", blob_id)
        release = asyncio.create_task(rig.table.release(blob_id))
        while not await rig.database.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await connection.execute("INSERT INTO thing (blob_id) VALUES ($1)", blob_id)
    assert not await release
    assert await rig.store.exists("a/b")
