from typing import Any

from darkroom import errors
from darkroom.api.scheduler.v1 import model_service_pb2 as pb
from tests.scheduler.conftest import MODEL, Room, Tenant, fields_of, refusal


async def test_the_catalogue_is_served(tenant: Tenant) -> None:
    model = (await tenant.models.GetModel(pb.GetModelRequest(name=MODEL))).model
    assert (model.name, model.kind, model.family, model.runners) == (MODEL, pb.MODEL_KIND_IMAGE, "flux", 0)
    assert (model.limits["width"].min, model.limits["width"].max, model.limits["width"].multiple_of) == (64, 128, 16)
    assert (model.limits["guidance_scale"].max, model.limits["guidance_scale"].multiple_of) == (20, 0)
    assert model.limits["pixels"].max == 12288
    assert dict(model.defaults) == {"width": 64, "height": 64, "steps": 10, "guidance_scale": 3.0, "num_images": 1}
    assert (model.prompt_bytes_max, model.adapters_max) == (2000, 2)
    assert (model.price.currency, model.price.nanos_per_image) == ("USD", 1_000_000)
    assert not model.HasField("extras_schema")
    other = (await tenant.models.GetModel(pb.GetModelRequest(name="extras-image"))).model
    assert "sharpness" in other.extras_schema["properties"]


async def test_the_price_in_force_is_told(idle_room: Room) -> None:
    await idle_room.start(prices_cache_s=0.0)
    tenant = await idle_room.tenant()
    await idle_room.set_price(model=MODEL, nanos_per_image=7, nanos_per_media_second=3)
    told = (await tenant.models.GetModel(pb.GetModelRequest(name=MODEL))).model.price
    assert (told.nanos_per_image, told.nanos_per_media_second, told.nanos_per_gpu_second) == (7, 3, 0)
    other, listed = (await tenant.models.ListModels(pb.ListModelsRequest())).models
    assert listed.price == told
    assert other.price.nanos_per_image == 1_000_000


async def test_the_catalogues_price_is_told_where_none_was_learned(idle_room: Room) -> None:
    await idle_room.start()
    tenant = await idle_room.tenant()
    # A call that is refused leaves the key verified, and no price asked for.
    assert fields_of(await refusal(tenant.models.GetModel(pb.GetModelRequest(name="")))) == ["name"]
    await idle_room.stop_billing()
    told = (await tenant.models.GetModel(pb.GetModelRequest(name=MODEL))).model.price
    assert (told.currency, told.nanos_per_image, told.nanos_per_gpu_second) == ("USD", 1_000_000, 10_000_000)


async def test_lists_are_paged(tenant: Tenant) -> None:
    async def page(**fields: Any) -> Any:
        return await tenant.models.ListModels(pb.ListModelsRequest(**fields))

    one = await page(page_size=1)
    two = await page(page_size=1, page_token=one.next_page_token)
    assert [each.name for each in (*one.models, *two.models)] == ["extras-image", MODEL]
    assert two.next_page_token == ""
    assert len((await page()).models) == 2
    for field, value in (("page_size", -1), ("page_size", 201), ("page_token", "forged")):
        assert fields_of(await refusal(page(**{field: value}))) == [field]


async def test_unknown_and_malformed_names(tenant: Tenant) -> None:
    assert isinstance(await refusal(tenant.models.GetModel(pb.GetModelRequest(name="no-such"))), errors.NotFound)
    for bad in ("", "../etc/passwd", "A", "x" * 65):
        assert fields_of(await refusal(tenant.models.GetModel(pb.GetModelRequest(name=bad)))) == ["name"]
