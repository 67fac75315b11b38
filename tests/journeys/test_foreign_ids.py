"""Another tenant's ids are answered exactly as ids that nobody has, by every RPC that takes one."""

import hashlib
import re

import grpc
import pytest
from google.protobuf import message

from darkroom import ids
from darkroom.api.billing_meter.v1 import account_service_pb2 as account_pb
from darkroom.api.billing_meter.v1 import billing_service_pb2 as billing_pb
from darkroom.api.billing_meter.v1 import metering_service_pb2 as metering_pb
from darkroom.api.lora_store.v1 import lora_service_pb2 as lora_pb
from darkroom.api.media_store.v1 import media_service_pb2 as media_pb
from darkroom.api.scheduler.v1 import generation_pb2 as generation_pb
from darkroom.api.scheduler.v1 import generation_service_pb2 as service_pb
from darkroom.api.scheduler.v1 import model_service_pb2 as model_pb
from darkroom.api.types.v1 import inputs_pb2, money_pb2
from tests import platforms
from tests.journeys import doors as all_doors
from tests.journeys import load
from tests.lora_store import adapters

ONE = money_pb2.Money(currency="USD", nanos=1)
ID = re.compile(r"\b(?:gen|lora|med)_[0-9a-f]{32}\b")


def with_adapter(adapter_id: str) -> service_pb.CreateGenerationRequest:
    request = load.request(0, steps=1, run=ids.new("req"))
    request.image.adapters.append(inputs_pb2.AdapterRef(adapter_id=adapter_id))
    return request


def with_source(media_id: str) -> service_pb.CreateGenerationRequest:
    request = load.request(0, steps=1, run=ids.new("req"))
    request.image.source_image.media_id = media_id
    return request


TAKING_GENERATIONS = {
    "GenerationService/GetGeneration": lambda it: service_pb.GetGenerationRequest(generation_id=it),
    "GenerationService/CancelGeneration": lambda it: service_pb.CancelGenerationRequest(generation_id=it),
    "GenerationService/WatchGeneration": lambda it: service_pb.WatchGenerationRequest(generation_id=it),
    "GenerationService/ExplainGeneration": lambda it: service_pb.ExplainGenerationRequest(generation_id=it),
    "BillingService/GetCharge": lambda it: billing_pb.GetChargeRequest(generation_id=it),
}
TAKING_ADAPTERS = {
    "GenerationService/CreateGeneration": with_adapter,
    "LoraService/GetLora": lambda it: lora_pb.GetLoraRequest(adapter_id=it),
    "LoraService/PullLora": lambda it: lora_pb.PullLoraRequest(adapter_id=it),
    "LoraService/DeleteLora": lambda it: lora_pb.DeleteLoraRequest(adapter_id=it),
}
TAKING_MEDIA = {
    "GenerationService/CreateGeneration": with_source,
    "MediaService/GetMedia": lambda it: media_pb.GetMediaRequest(media_id=it),
    "MediaService/ReadMedia": lambda it: media_pb.ReadMediaRequest(media_id=it),
    "MediaService/SignMediaUrl": lambda it: media_pb.SignMediaUrlRequest(media_id=it),
    "MediaService/DeleteMedia": lambda it: media_pb.DeleteMediaRequest(media_id=it),
}
DELETING = {"LoraService/DeleteLora", "MediaService/DeleteMedia"}  # deleting what is not there is no error


async def test_a_stranger_learns_nothing(
    platform: platforms.Platform, doors: all_doors.Doors, anna: load.Tenant, boris: load.Tenant
) -> None:
    async with platform.tenant(anna.api_key) as owner:
        made = await owner.generate(load.request(1, steps=1, run=ids.new("req")))
        assert made.state == generation_pb.GENERATION_STATE_SUCCEEDED
        await load.posted(owner, made.generation_id)
        pushed = await owner.lora_store.PushLora(_push(adapters.good()))
        owned = {
            "gen": (made.generation_id, TAKING_GENERATIONS),
            "lora": (pushed.lora.adapter_id, TAKING_ADAPTERS),
            "med": (made.artifacts[0].media_id, TAKING_MEDIA),
        }
        for prefix, (owned_id, requests) in owned.items():
            for name, request in requests.items():
                path = all_doors.path_of(name)
                foreign = await doors.call(path, request(owned_id), credential=boris.api_key)
                missing = await doors.call(path, request(ids.new(prefix)), credential=boris.api_key)
                assert _without_ids(foreign) == _without_ids(missing), name
                if name not in DELETING:
                    assert foreign is not None, name
                    assert foreign.code is grpc.StatusCode.NOT_FOUND, name
        async with platform.tenant(boris.api_key) as stranger:
            assert [generation async for generation in stranger.all()] == []
        assert await owner.get(made.generation_id) == made
        assert await owner.lora(pushed.lora.adapter_id) == pushed.lora
        assert (
            await doors.call(
                all_doors.path_of("MediaService/ReadMedia"),
                media_pb.ReadMediaRequest(media_id=made.artifacts[0].media_id),
                credential=anna.api_key,
            )
            is None
        )


async def test_lists_hold_what_is_ones_own(platform: platforms.Platform, anna: load.Tenant, boris: load.Tenant) -> None:
    async with platform.tenant(anna.api_key) as owner, platform.tenant(boris.api_key) as stranger:
        made = await owner.generate(load.request(2, steps=1, run=ids.new("req")))
        assert made.generation_id in [generation.generation_id async for generation in owner.all()]
        assert made.generation_id not in [generation.generation_id async for generation in stranger.all()]
        assert not await stranger.loras()


MISSING = [
    (
        "operator",
        "AccountService/AddCredit",
        "tenant",
        account_pb.AddCreditRequest(tenant_id=ids.new("ten"), amount=ONE, idempotency_key="k"),
    ),
    ("operator", "AccountService/CreateKey", "tenant", account_pb.CreateKeyRequest(tenant_id=ids.new("ten"), name="n")),
    ("operator", "AccountService/ListKeys", "tenant", account_pb.ListKeysRequest(tenant_id=ids.new("ten"))),
    ("operator", "AccountService/RevokeKey", "key", account_pb.RevokeKeyRequest(key_id=ids.new("key"))),
    ("tenant", "ModelService/GetModel", "model", model_pb.GetModelRequest(name="no-such-model")),
    (
        "tenant",
        "GenerationService/CreateGeneration",
        "model",
        service_pb.CreateGenerationRequest(
            model="no-such-model", image=inputs_pb2.ImageInput(prompt="x"), idempotency_key="k"
        ),
    ),
    (
        "internal",
        "MeteringService/GrantLease",
        "tenant",
        metering_pb.GrantLeaseRequest(tenant_id=ids.new("ten"), grant_id=ids.new("lea"), wanted=ONE, least=ONE),
    ),
    (
        "internal",
        "MeteringService/ReleaseLease",
        "tenant",
        metering_pb.ReleaseLeaseRequest(tenant_id=ids.new("ten"), release_id=ids.new("lea"), amount=ONE),
    ),
]


@pytest.mark.parametrize(
    ("who", "name", "kind", "request_"), MISSING, ids=lambda value: value if isinstance(value, str) else ""
)
async def test_what_nobody_has_is_not_found(
    doors: all_doors.Doors, anna: load.Tenant, who: str, name: str, kind: str, request_: message.Message
) -> None:
    credentials = {"tenant": anna.api_key, "operator": doors.operator_key, "internal": doors.internal()}
    refusal = await doors.call(all_doors.path_of(name), request_, credential=credentials[who])
    assert refusal is not None
    assert refusal.code is grpc.StatusCode.NOT_FOUND
    assert kind in refusal.message


def _without_ids(refusal: all_doors.Refusal | None) -> str:
    return ID.sub("ID", repr(refusal))


async def _push(file: bytes):  # type: ignore[no-untyped-def]
    header = lora_pb.PushLoraHeader(
        name="annas", base_model=load.MODEL, sha256=hashlib.sha256(file).hexdigest(), size_bytes=len(file)
    )
    yield lora_pb.PushLoraRequest(header=header)
    yield lora_pb.PushLoraRequest(chunk=file)
