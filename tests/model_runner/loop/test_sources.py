"""Pictures named in all ways, from a real media_store."""

import hashlib
from typing import Any

import pytest

from darkroom import ids, rpc
from darkroom.api.media_store.v1 import media_service_pb2, media_service_pb2_grpc
from darkroom.api.types.v1.inputs_pb2 import AudioInput, ImageInput, VideoInput
from darkroom.api.types.v1.media_pb2 import MediaRef
from darkroom.model_runner import peers
from darkroom.model_runner.domain import AttemptFailed
from darkroom.model_runner.loop import sources
from tests.model_runner import world as worlds
from tests.model_runner.engine.families import tiny_media

PICTURE = tiny_media.picture()


@pytest.fixture
def capability(world: worlds.World) -> str:
    return world.capability(ids.new("gen"))


async def read(world: worlds.World, media: Any, capability: str) -> sources.Pictures:
    async with rpc.channel(world.addresses["media_store_address"]) as channel:
        return await sources.read(media, peers.Media(channel), capability)


async def put(world: worlds.World, capability: str) -> str:
    header = media_service_pb2.PutMediaHeader(sha256=hashlib.sha256(PICTURE).hexdigest(), size_bytes=len(PICTURE))

    async def parts() -> Any:
        yield media_service_pb2.PutMediaRequest(header=header)
        yield media_service_pb2.PutMediaRequest(chunk=PICTURE)

    async with rpc.channel(world.addresses["media_store_address"], credential=lambda: capability) as channel:
        return str((await media_service_pb2_grpc.MediaServiceStub(channel).PutMedia(parts())).media.media_id)


async def test_pictures_come_from_the_message_or_the_store(world: worlds.World, capability: str) -> None:
    stored = MediaRef(media_id=await put(world, capability))
    inline = MediaRef(inline=b"mask")
    image = ImageInput(source_image=stored, mask_image=inline)
    assert await read(world, image, capability) == (PICTURE, b"mask")
    assert await read(world, VideoInput(source_image=stored), capability) == (PICTURE, None)
    for media in (ImageInput(), VideoInput(), AudioInput()):
        assert await read(world, media, capability) == (None, None)


async def test_a_file_too_long_to_hold_is_refused_by_its_field(
    world: worlds.World, capability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = MediaRef(media_id=await put(world, capability))
    monkeypatch.setattr(sources, "BYTES_MAX", len(PICTURE))
    assert await read(world, VideoInput(source_image=stored), capability) == (PICTURE, None)
    monkeypatch.setattr(sources, "BYTES_MAX", len(PICTURE) - 1)
    with pytest.raises(AttemptFailed, match=r"^mask_image\.media_id: must name at most") as failure:
        await read(world, ImageInput(source_image=MediaRef(inline=PICTURE), mask_image=stored), capability)
    assert (failure.value.reason, failure.value.request_fault) == ("REQUEST_INVALID", True)


async def test_a_picture_that_is_not_there_is_the_request_s_fault(world: worlds.World, capability: str) -> None:
    foreign = world.capability(ids.new("gen"), ids.new("ten"))
    for media_id, bearer in ((ids.new("med"), capability), (await put(world, capability), foreign)):
        with pytest.raises(AttemptFailed) as failure:
            await read(world, VideoInput(source_image=MediaRef(media_id=media_id)), bearer)
        assert (failure.value.reason, failure.value.request_fault) == ("MEDIA_NOT_FOUND", True)
