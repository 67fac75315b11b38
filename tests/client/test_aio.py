from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from darkroom import client, errors
from darkroom.api.billing_meter.v1 import billing_service_pb2 as billing_pb
from darkroom.api.scheduler.v1 import generation_pb2
from darkroom.api.scheduler.v1 import generation_service_pb2 as service_pb
from darkroom.api.types.v1 import media_pb2
from darkroom.client import aio
from tests import platforms
from tests.journeys import load
from tests.lora_store import adapters

NOBODYS = "gen_" + "0" * 32
SUCCEEDED = generation_pb2.GENERATION_STATE_SUCCEEDED


def small(prompt: str = "a red circle", *, steps: int = 1, images: int = 1) -> service_pb.CreateGenerationRequest:
    request = client.image("pocket-image", prompt)
    request.image.steps, request.image.num_images, request.image.guidance_scale = steps, images, 1.0
    return request


@pytest.fixture
async def darkroom(platform: platforms.Platform) -> AsyncIterator[client.AsyncClient]:
    async with platform.tenant() as connected:
        yield connected


async def test_a_generation_is_made_followed_downloaded_and_charged(
    darkroom: client.AsyncClient, tmp_path: Path
) -> None:
    generation = await darkroom.generate(small())
    assert generation.state == SUCCEEDED
    assert await darkroom.get(generation.generation_id) == generation
    await darkroom.download(generation.artifacts[0], tmp_path / "circle.png")
    assert (tmp_path / "circle.png").read_bytes().startswith(b"\x89PNG")
    assert (await load.posted(darkroom, generation.generation_id)).state == billing_pb.CHARGE_STATE_POSTED
    assert (await darkroom.explain(generation.generation_id)).decisions


async def test_refusals_are_errors_of_the_tree(darkroom: client.AsyncClient, platform: platforms.Platform) -> None:
    with pytest.raises(errors.NotFound) as missing:
        await darkroom.get(NOBODYS)
    assert (missing.value.resource_type, missing.value.name) == ("generation", NOBODYS)
    with pytest.raises(errors.InvalidArgument) as bad:
        await darkroom.create(small("", steps=1000))
    assert [violation.field for violation in bad.value.violations] == ["image.prompt", "image.steps"]
    with pytest.raises(errors.PermissionDenied):
        await darkroom.runners()
    async with platform.tenant("dk_" + "0" * 12 + "_" + "0" * 64) as stranger:
        with pytest.raises(errors.Unauthenticated):
            await stranger.models()
        with pytest.raises(errors.Unauthenticated):  # on a stream as well
            _ = [change async for change in stranger.watch(NOBODYS)]


async def test_a_platform_that_is_not_there_is_unavailable(
    platform: platforms.Platform, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aio, "RESUME_PATIENCE_S", 0.0)
    address = f"127.0.0.1:{free_port}"
    gone = client.Endpoints(
        scheduler_address=address,
        lora_store_address=address,
        media_store_address=address,
        billing_meter_address=address,
    )
    async with client.AsyncClient(gone, api_key="dk_of_yesterday") as nobody:
        with pytest.raises(errors.Unavailable):
            _ = [change async for change in nobody.watch(NOBODYS)]


async def test_a_watch_goes_on_when_the_scheduler_is_killed(
    darkroom: client.AsyncClient, platform: platforms.Platform
) -> None:
    created = await darkroom.create(small(steps=50, images=4))
    seen: list[generation_pb2.Generation] = []
    async for change in darkroom.watch(created.generation_id):
        if not seen:
            (scheduler,) = platform.rooms("scheduler")
            scheduler.kill()
        seen.append(change)
    sequences = [change.sequence for change in seen]
    assert sequences == sorted(set(sequences))
    assert seen[-1].state == SUCCEEDED


async def test_a_list_goes_through_all_pages(platform: platforms.Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "PAGE_SIZE", 2)
    tenant = await load.new_tenant(platform, "pages")
    async with platform.tenant(tenant.api_key) as darkroom:
        made = [(await darkroom.generate(small())).generation_id for _ in range(5)]
        assert [generation.generation_id async for generation in darkroom.all()] == made[::-1]
        failed = darkroom.all(state=generation_pb2.GENERATION_STATE_FAILED)
        assert [generation async for generation in failed] == []


async def test_a_charge_is_pending_until_it_is_posted(darkroom: client.AsyncClient) -> None:
    created = await darkroom.create(small(steps=100, images=4))
    charge = await darkroom.charge(created.generation_id)
    assert (charge.generation_id, charge.state) == (created.generation_id, billing_pb.CHARGE_STATE_PENDING)
    await darkroom.cancel(created.generation_id)
    ended = [change async for change in darkroom.watch(created.generation_id)][-1]
    assert ended.state == generation_pb2.GENERATION_STATE_CANCELLED
    assert (await load.posted(darkroom, created.generation_id)).state == billing_pb.CHARGE_STATE_FREE
    with pytest.raises(errors.NotFound):
        await darkroom.charge(NOBODYS)


async def test_whoever_waits_for_a_charge_gets_what_the_ledger_says(
    darkroom: client.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = iter([billing_pb.CHARGE_STATE_PENDING, billing_pb.CHARGE_STATE_PENDING, billing_pb.CHARGE_STATE_POSTED])

    async def told(request: billing_pb.GetChargeRequest) -> billing_pb.GetChargeResponse:
        return billing_pb.GetChargeResponse(charge=billing_pb.Charge(state=next(said)))

    monkeypatch.setattr(darkroom.billing, "GetCharge", told)
    assert (await darkroom.charge(NOBODYS)).state == billing_pb.CHARGE_STATE_PENDING
    assert (await darkroom.charge(NOBODYS, wait_s=load.POSTED_WITHIN_S)).state == billing_pb.CHARGE_STATE_POSTED


async def test_bytes_that_are_not_those_that_were_stored_leave_no_file(
    darkroom: client.AsyncClient, tmp_path: Path
) -> None:
    generation = await darkroom.generate(small())
    forged = media_pb2.Artifact(media_id=generation.artifacts[0].media_id, sha256="0" * 64)
    with pytest.raises(ValueError, match="are not those that were stored"):
        await darkroom.download(forged, tmp_path / "circle.png")
    with pytest.raises(errors.NotFound):
        await darkroom.download(media_pb2.Artifact(media_id="med_" + "0" * 32), tmp_path / "circle.png")
    assert list(tmp_path.iterdir()) == []


async def test_an_adapter_goes_up_and_comes_down(darkroom: client.AsyncClient, tmp_path: Path) -> None:
    up, down = tmp_path / "up.safetensors", tmp_path / "down.safetensors"
    up.write_bytes(adapters.good(rank=5))
    pushed = await darkroom.push_lora(up, name="up", base_model="pocket-image")
    assert pushed.lora in await darkroom.loras()
    assert await darkroom.pull_lora(pushed.lora.adapter_id, down) == pushed.lora
    assert down.read_bytes() == up.read_bytes()
    await darkroom.delete_lora(pushed.lora.adapter_id)
    with pytest.raises(errors.NotFound):
        await darkroom.lora(pushed.lora.adapter_id)


async def test_a_picture_that_was_put_can_be_started_from(darkroom: client.AsyncClient, tmp_path: Path) -> None:
    PIL.Image.new("RGB", (640, 640), "red").save(tmp_path / "red.png")
    request = small(steps=2)
    request.image.source_image.CopyFrom(await darkroom.put_media(tmp_path / "red.png"))
    assert request.image.source_image.media_id.startswith("med_")
    assert (await darkroom.generate(request)).state == SUCCEEDED


async def test_whoever_stops_watching_leaves_no_call_behind(
    darkroom: client.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    watch = darkroom.generations.WatchGeneration
    monkeypatch.setattr(
        darkroom.generations, "WatchGeneration", lambda request: calls.append(watch(request)) or calls[-1]
    )
    created = await darkroom.create(small(steps=100, images=4))
    changes = darkroom.watch(created.generation_id)
    assert (await anext(changes)).generation_id == created.generation_id
    await changes.aclose()  # type: ignore[attr-defined]
    assert [call.cancelled() for call in calls] == [True]
    await darkroom.cancel(created.generation_id)
