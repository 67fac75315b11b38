import asyncio
import datetime
import hashlib
import importlib.resources
import pathlib
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

import pytest

from darkroom import blobs, errors, ids, postgres
from darkroom.lora_store import domain, store

RAW = b"not checked here"


class Rig(NamedTuple):
    loras: store.Store
    database: postgres.Database
    directory: pathlib.Path

    def files(self) -> int:
        return sum(path.is_file() for path in self.directory.rglob("*"))


@pytest.fixture
async def rig(database_url: str, tmp_path: pathlib.Path) -> AsyncIterator[Rig]:
    async with postgres.connect(database_url, schema="lora_store") as database:
        await database.migrate(importlib.resources.files("darkroom.lora_store") / "migrations")
        yield Rig(store.Store(database, blobs.open_store(f"file://{tmp_path}")), database, tmp_path)


def lora(**changes: object) -> domain.Lora:
    fields = {
        "adapter_id": ids.new("lora"),
        "tenant_id": "ten_a",
        "name": "style",
        "base_model": "tiny",
        "sha256": hashlib.sha256(RAW).hexdigest(),
        "size_bytes": len(RAW),
        "numbers": domain.Numbers(rank=4, pairs=2, dtype="BF16"),
        "created_at": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    }
    return domain.Lora(**{**fields, **changes})  # type: ignore[arg-type]


def read(*, cut: bool = False) -> Callable[[], AsyncIterator[bytes]]:
    async def chunks() -> AsyncIterator[bytes]:
        yield RAW[:4]
        if cut:
            raise ConnectionResetError
        yield RAW[4:]

    return chunks


async def test_what_is_stored_is_what_was_pushed(rig: Rig) -> None:
    pushed = lora()
    assert await rig.loras.push(pushed, read()) == (pushed, True)
    assert await rig.loras.get("ten_a", pushed.adapter_id) == pushed
    assert b"".join([chunk async for chunk in rig.loras.read(pushed)]) == RAW


async def test_a_push_that_dies_leaves_no_adapter_and_its_bytes_are_swept(rig: Rig) -> None:
    with pytest.raises(errors.DarkroomError):
        await rig.loras.push(lora(), read(cut=True))
    assert await rig.database.fetchval("SELECT count(*) FROM lora") == 0
    assert await rig.loras.sweep(age_s=3600) == 0
    assert await rig.loras.sweep(age_s=0) == 1
    assert await rig.database.fetchval("SELECT count(*) FROM blob") == 0
    assert rig.files() == 0


async def test_a_sweep_spares_what_is_in_use(rig: Rig) -> None:
    pushed, _ = await rig.loras.push(lora(), read())
    assert await rig.loras.sweep(age_s=0) == 0
    assert b"".join([chunk async for chunk in rig.loras.read(pushed)]) == RAW


async def test_a_push_whose_bytes_are_swept_before_its_row_stores_them_again(rig: Rig) -> None:
    swept: list[int] = []

    async def chunks() -> AsyncIterator[bytes]:
        yield RAW
        if not swept:
            swept.append(await rig.loras.sweep(age_s=0))

    pushed, created = await rig.loras.push(lora(), chunks)
    assert (swept, created) == ([1], True)
    assert b"".join([chunk async for chunk in rig.loras.read(pushed)]) == RAW


async def test_bytes_deleted_under_a_reader_are_not_found(rig: Rig) -> None:
    pushed, _ = await rig.loras.push(lora(), read())
    await rig.loras.delete("ten_a", pushed.adapter_id)
    with pytest.raises(errors.NotFound, match=pushed.adapter_id):
        await anext(rig.loras.read(pushed))


async def test_deleting_at_once_deletes_once(rig: Rig) -> None:
    first, _ = await rig.loras.push(lora(), read())
    second, _ = await rig.loras.push(lora(base_model="other"), read())
    await asyncio.gather(*[rig.loras.delete("ten_a", found.adapter_id) for found in (first, second) * 4])
    assert rig.files() == 0
    assert await rig.database.fetchval("SELECT count(*) FROM blob") == 0
    with pytest.raises(errors.NotFound):
        await rig.loras.delete("ten_b", first.adapter_id)
