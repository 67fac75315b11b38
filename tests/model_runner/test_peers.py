"""The stores as a runner uses them, on their real rooms: what is fetched once, kept, removed, refused; what is put."""

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO

import grpc.aio
import pytest
import tenacity
import torch

from darkroom import errors, ids, rpc, tokens
from darkroom.api.lora_store.v1 import lora_service_pb2, lora_service_pb2_grpc
from darkroom.api.media_store.v1 import media_service_pb2, media_service_pb2_grpc
from darkroom.api.types.v1 import media_pb2
from darkroom.model_runner import peers
from darkroom.model_runner.engine import encode
from darkroom.model_runner.engine.job import Output
from tests.model_runner import world as worlds

BIG = 1 << 30
GENERATION = ids.new("gen")

Cache = Callable[..., peers.Adapters]


@pytest.fixture
async def loras(world: worlds.World) -> AsyncIterator[grpc.aio.Channel]:
    async with rpc.channel(world.addresses["lora_store_address"]) as channel:
        yield channel


@pytest.fixture
def cache(loras: grpc.aio.Channel, tmp_path: Path) -> Cache:
    return lambda bytes_max=BIG: peers.Adapters(loras, tmp_path / "cache", bytes_max=bytes_max)


def files(cache_folder: Path) -> list[str]:
    return sorted(path.name for path in cache_folder.rglob("*") if path.is_file())


async def test_an_adapter_is_fetched_once_and_checked(world: worlds.World, cache: Cache, tmp_path: Path) -> None:
    data = worlds.adapter()
    adapter_id, token = await world.push(data), world.capability(GENERATION)
    store = cache()
    async with store.lease(world.tenant_id, adapter_id, token) as first:
        assert first.path.read_bytes() == data
        assert first.sha256 == hashlib.sha256(data).hexdigest()
        inode = first.path.stat().st_ino
    async with store.lease(world.tenant_id, adapter_id, token) as second:
        assert second.path.stat().st_ino == inode
    assert files(tmp_path / "cache") == [f"{first.sha256}.safetensors"]


async def test_those_who_want_one_adapter_at_once_share_one_fetch(
    world: worlds.World, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter_id, token = await world.push(worlds.adapter()), world.capability(GENERATION)
    store = cache()
    fetches: list[str] = []
    pull = store._pull

    async def counting(adapter_id: str, *rest: object) -> None:
        fetches.append(adapter_id)
        await pull(adapter_id, *rest)

    monkeypatch.setattr(store, "_pull", counting)

    async def want() -> bool:
        async with store.lease(world.tenant_id, adapter_id, token) as file:
            return file.path.exists()

    assert all(await asyncio.gather(*(want() for _ in range(8))))
    assert fetches == [adapter_id]


async def test_bytes_that_another_process_left_are_not_trusted(world: worlds.World, cache: Cache) -> None:
    data = worlds.adapter()
    adapter_id, token = await world.push(data), world.capability(GENERATION)
    async with cache().lease(world.tenant_id, adapter_id, token) as file:
        file.path.write_bytes(b"poison")
    async with cache().lease(world.tenant_id, adapter_id, token) as file:
        assert file.path.read_bytes() == data


async def test_the_longest_unused_goes_first_and_what_is_in_use_stays(
    world: worlds.World, cache: Cache, tmp_path: Path
) -> None:
    contents = [worlds.adapter(strength=strength) for strength in (1.0, 2.0, 3.0)]
    names = [f"{hashlib.sha256(data).hexdigest()}.safetensors" for data in contents]
    adapters = [await world.push(data, name=f"style-{index}") for index, data in enumerate(contents)]
    token = world.capability(GENERATION)
    store = cache(bytes_max=2 * len(contents[0]))
    async with store.lease(world.tenant_id, adapters[0], token) as held:
        os.utime(held.path, (0, 0))
        async with store.lease(world.tenant_id, adapters[1], token) as passing:
            os.utime(passing.path, (1, 1))
        async with store.lease(world.tenant_id, adapters[2], token):
            assert files(tmp_path / "cache") == sorted([names[0], names[2]])
    async with store.lease(world.tenant_id, adapters[1], token):
        assert files(tmp_path / "cache") == sorted([names[1], names[2]])


async def test_a_deleted_adapter_and_anothers_are_not_found(world: worlds.World, cache: Cache) -> None:
    adapter_id, token = await world.push(worlds.adapter()), world.capability(GENERATION)
    store = cache()
    stranger = ids.new("ten")
    with pytest.raises(errors.NotFound):
        await store.lease(stranger, adapter_id, world.capability(GENERATION, stranger)).__aenter__()
    async with store.lease(world.tenant_id, adapter_id, token):
        pass
    writer = tokens.capability(
        world.service_secret, tenant_id=world.tenant_id, generation_id=GENERATION, scopes=("loras.write",)
    )
    async with rpc.channel(world.addresses["lora_store_address"], credential=lambda: writer) as channel:
        request = lora_service_pb2.DeleteLoraRequest(adapter_id=adapter_id)
        await lora_service_pb2_grpc.LoraServiceStub(channel).DeleteLora(request)
    with pytest.raises(errors.NotFound):
        await store.lease(world.tenant_id, adapter_id, token).__aenter__()


async def test_a_file_under_way_is_not_removed_for_another_ones_room(
    world: worlds.World, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, token = cache(bytes_max=1), world.capability(GENERATION)
    slow, quick = [await world.push(worlds.adapter(strength=strength)) for strength in (1.0, 2.0)]
    copy, written, go_on = peers.Adapters._copy, asyncio.Event(), asyncio.Event()

    async def copied(self: peers.Adapters, adapter_id: str, capability: str, file: IO[bytes]) -> str:
        digest = await copy(self, adapter_id, capability, file)
        if adapter_id == slow:
            written.set()
            await go_on.wait()
        return digest

    async def fetch(adapter_id: str) -> bytes:
        async with store.lease(world.tenant_id, adapter_id, token) as file:
            return file.path.read_bytes()

    monkeypatch.setattr(peers.Adapters, "_copy", copied)
    fetching = asyncio.create_task(fetch(slow))
    await written.wait()
    assert await fetch(quick) == worlds.adapter(strength=2.0)
    go_on.set()
    assert await fetching == worlds.adapter(strength=1.0)


async def test_a_full_disk_takes_the_place_of_what_is_not_in_use(
    world: worlds.World, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, store, copy = world.capability(GENERATION), cache(), peers.Adapters._copy
    ids_ = [await world.push(worlds.adapter(strength=strength)) for strength in (1.0, 2.0, 3.0)]

    async def copied(self: peers.Adapters, adapter_id: str, capability: str, file: IO[bytes]) -> str:
        digest = await copy(self, adapter_id, capability, file)
        if len(list((tmp_path / "cache").rglob("*.safetensors"))) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return digest

    monkeypatch.setattr(peers.Adapters, "_copy", copied)
    async with store.lease(world.tenant_id, ids_[0], token) as used:
        async with store.lease(world.tenant_id, ids_[1], token):
            pass
        async with store.lease(world.tenant_id, ids_[2], token) as third:
            assert files(tmp_path / "cache") == sorted([used.path.name, third.path.name])


async def test_the_same_picture_of_the_same_generation_is_stored_once(world: worlds.World) -> None:
    picture = encode.png(encode.rounded("image", torch.zeros(3, 8, 4)).values[0])
    output = Output(picture, encode.PNG, 4, 8, 7, tier="HIGH")
    async with rpc.channel(world.addresses["media_store_address"]) as channel:
        media = peers.Media(channel)
        token = world.capability(GENERATION)
        first, again = await media.put(output, token), await media.put(output, token)
    assert first == again
    assert (first.width, first.height, first.seed, first.size_bytes) == (4, 8, 7, len(picture))
    assert first.quality == media_pb2.QUALITY_TIER_HIGH
    assert await world.read(first.media_id) == picture


async def test_bytes_that_were_changed_in_the_bucket_are_not_read(world: worlds.World, tmp_path: Path) -> None:
    token = world.capability(GENERATION)
    data = (2).to_bytes(8, "little") + b"{}" + bytes(9)  # a safetensors file, as checkpoints are
    async with rpc.channel(world.addresses["media_store_address"]) as channel:
        media = peers.Media(channel)
        media_id = await media.keep(data, token, retention_s=3600.0)
        assert await media.read(media_id, token) == data
        [file] = [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
        file.write_bytes(data[:-1] + b"x")
        with pytest.raises(errors.Internal):
            await media.read(media_id, token)


async def put_impatiently(media: peers.Media, output: Output, token: str) -> None:
    """Put it until that is refused."""
    while True:
        await peers.Media.put.retry_with(stop=tenacity.stop_after_attempt(1))(media, output, token)


async def test_a_store_that_takes_no_more_uploads_now_is_waited_for(
    world: worlds.World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bearer = (("authorization", f"Bearer {world.capability(GENERATION)}"),)
    part = media_service_pb2.PutMediaRequest(header=media_service_pb2.PutMediaHeader(size_bytes=9))
    output = Output(encode.png(encode.rounded("image", torch.zeros(3, 8, 4)).values[0]), encode.PNG, 4, 8, 7)
    async with rpc.channel(world.addresses["media_store_address"]) as channel:
        stub = media_service_pb2_grpc.MediaServiceStub(channel)
        others = [stub.PutMedia(metadata=bearer) for _ in range(32)]  # as many as are taken at once
        for other in others:
            await other.write(part)
        with pytest.raises(errors.ResourceExhausted):
            await put_impatiently(peers.Media(channel), output, world.capability(GENERATION))
        monkeypatch.setattr(peers.Media.put.retry, "before_sleep", lambda state: [other.cancel() for other in others])
        stored = await peers.Media(channel).put(output, world.capability(GENERATION))
    assert stored.size_bytes == len(output.data)


async def test_a_store_that_is_away_is_waited_for_but_not_for_ever(
    world: worlds.World, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    monkeypatch.setattr(peers.Media.put.retry, "stop", tenacity.stop_after_attempt(2))
    monkeypatch.setattr(peers.Media.put.retry, "before", lambda state: tried.append(state.attempt_number))
    output = Output(b"x", encode.PNG, 4, 8, 7)
    async with rpc.channel(f"127.0.0.1:{free_port}") as channel:
        with pytest.raises(errors.Unavailable):
            await peers.Media(channel).put(output, world.capability(GENERATION))
    assert tried == [1, 2]
