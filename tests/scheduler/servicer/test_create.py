import asyncio

import grpc.aio
import pytest
from google.protobuf import duration_pb2

from darkroom import errors, ids
from darkroom.api.scheduler.v1 import generation_pb2
from darkroom.api.scheduler.v1 import generation_service_pb2 as pb
from darkroom.api.types.v1 import inputs_pb2
from darkroom.scheduler.fakes import loras
from tests.scheduler import stage
from tests.scheduler.conftest import ESTIMATE_NANOS, MODEL, Room, Tenant, eventually, fields_of, refusal, request

QUEUED = generation_pb2.GENERATION_STATE_QUEUED


async def test_an_accepted_one_is_told_whole(tenant: Tenant) -> None:
    made = await tenant.create(tags={"team": "a"}, deadline=duration_pb2.Duration(seconds=60))
    assert (made.state, made.model, made.priority) == (QUEUED, MODEL, inputs_pb2.PRIORITY_STANDARD)
    assert (made.image.width, made.image.height, made.image.steps, made.image.num_images) == (64, 64, 10, 1)
    assert made.image.HasField("seed")
    assert (made.estimate.currency, made.estimate.nanos) == ("USD", ESTIMATE_NANOS)
    assert (made.sequence, made.steps_total, made.attempts) == (1, 10, 0)
    assert dict(made.tags) == {"team": "a"}
    assert made.deadline.ToMicroseconds() - made.created_at.ToMicroseconds() == pytest.approx(60_000_000, abs=100_000)
    assert await tenant.get(made.generation_id) == made


async def test_bad_input_is_refused_and_nothing_is_stored(room: Room, tenant: Tenant) -> None:
    bad = request(idempotency_key="", image=inputs_pb2.ImageInput(prompt="a\x1b[2J", width=65))
    refused = await refusal(tenant.generations.CreateGeneration(bad))
    assert fields_of(refused) == ["idempotency_key", "image.prompt", "image.width"]
    unknown = await refusal(tenant.generations.CreateGeneration(request(model="no-such-model")))
    assert isinstance(unknown, errors.NotFound)
    for table in ("generation", "idempotency", "spending_lease", "spending_grant"):
        assert await room.database.fetchval(f"SELECT count(*) FROM {table}") == 0  # our own names


async def test_fifty_concurrent_submits_are_one_generation(room: Room, tenant: Tenant) -> None:
    same = request(idempotency_key="same")
    answers = await asyncio.gather(*(tenant.generations.CreateGeneration(same) for _ in range(50)))
    assert len({answer.generation.generation_id for answer in answers}) == 1
    assert len({answer.generation.image.seed for answer in answers}) == 1
    assert await room.database.fetchval("SELECT count(*) FROM generation") == 1
    assert await room.database.fetchval("SELECT reserved_nanos FROM spending_lease") == ESTIMATE_NANOS


async def test_a_key_is_one_request_of_one_tenant(room: Room, tenant: Tenant) -> None:
    made = await tenant.create(idempotency_key="key")
    other = request(idempotency_key="key", image=inputs_pb2.ImageInput(prompt="a blue square"))
    assert isinstance(await refusal(tenant.generations.CreateGeneration(other)), errors.AlreadyExists)
    stranger = await room.tenant()
    assert (await stranger.create(idempotency_key="key")).generation_id != made.generation_id


async def test_the_same_key_finds_its_generation_in_every_state(room: Room, tenant: Tenant) -> None:
    asked = request(idempotency_key="key")
    made = (await tenant.generations.CreateGeneration(asked)).generation
    await tenant.generations.CancelGeneration(pb.CancelGenerationRequest(generation_id=made.generation_id))
    again = (await tenant.generations.CreateGeneration(asked)).generation
    assert again.generation_id == made.generation_id
    assert again.state == generation_pb2.GENERATION_STATE_CANCELLED


async def test_no_money_no_generation(room: Room) -> None:
    poor = await room.tenant(credit_nanos=ESTIMATE_NANOS - 1)
    asked = request()
    refused = await refusal(poor.generations.CreateGeneration(asked))
    assert isinstance(refused, errors.FailedPrecondition)
    assert refused.reason == "INSUFFICIENT_FUNDS"
    assert await room.database.fetchval("SELECT count(*) FROM generation") == 0
    await room.add_credit(poor.tenant_id, 1)
    assert (await poor.generations.CreateGeneration(asked)).generation.state == QUEUED


async def test_concurrent_creates_spend_an_account_to_its_last_unit(room: Room) -> None:
    tenant = await room.tenant(credit_nanos=25 * ESTIMATE_NANOS)
    answers = await asyncio.gather(*(tenant.create() for _ in range(40)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert len(refused) == 15
    assert {each.code() for each in refused} == {grpc.StatusCode.FAILED_PRECONDITION}
    row = await room.database.fetchrow("SELECT * FROM spending_lease")
    assert row is not None
    assert (row["granted_nanos"], row["reserved_nanos"]) == (25 * ESTIMATE_NANOS, 25 * ESTIMATE_NANOS)
    assert await room.reconcile() == {}


async def test_adapters_are_the_tenants_own_and_of_this_model(room: Room, tenant: Tenant) -> None:
    mine, foreign, misfit = ids.new("lora"), ids.new("lora"), ids.new("lora")
    room.loras.adapters = {
        mine: loras.Adapter(tenant.tenant_id, MODEL),
        foreign: loras.Adapter(ids.new("ten"), MODEL),
        misfit: loras.Adapter(tenant.tenant_id, "another-model"),
    }

    def asked(*adapter_ids: str) -> pb.CreateGenerationRequest:
        adapters = [inputs_pb2.AdapterRef(adapter_id=adapter_id) for adapter_id in adapter_ids]
        return request(image=inputs_pb2.ImageInput(prompt="x", adapters=adapters))

    made = (await tenant.generations.CreateGeneration(asked(mine))).generation
    assert [(each.adapter_id, each.scale) for each in made.image.adapters] == [(mine, 1.0)]
    misfitting = await refusal(tenant.generations.CreateGeneration(asked(mine, misfit)))
    assert fields_of(misfitting) == ["image.adapters[1].adapter_id"]
    absent_id = ids.new("lora")
    absent = await refusal(tenant.generations.CreateGeneration(asked(absent_id)))
    refused = await refusal(tenant.generations.CreateGeneration(asked(foreign)))
    assert isinstance(refused, errors.NotFound)
    assert str(refused).replace(foreign, absent_id) == str(absent)


async def test_a_hopeless_deadline_is_refused_at_once(tenant: Tenant) -> None:
    asked = request(deadline=duration_pb2.Duration(nanos=9_000_000))  # 10 steps of 1 ms take longer
    refused = await refusal(tenant.generations.CreateGeneration(asked))
    assert isinstance(refused, errors.ResourceExhausted)
    assert refused.reason == "DEADLINE_HOPELESS"
    assert refused.retry_after_s >= 1.0


async def test_a_deadline_leaves_time_to_load_the_model(room: Room, tenant: Tenant) -> None:
    async with stage.runners(room, "node-a") as (runner,):
        runner.behaviour.resident = ()

        async def known() -> bool:
            wanted = pb.EstimateGenerationRequest(generation=request())
            return bool((await tenant.generations.EstimateGeneration(wanted)).accelerators)

        await eventually(known)
        asked = request(deadline=duration_pb2.Duration(nanos=900_000_000))  # its steps take 10 ms, its model 1 s
        refused = await refusal(tenant.generations.CreateGeneration(asked))
        assert isinstance(refused, errors.ResourceExhausted)
        assert refused.reason == "DEADLINE_HOPELESS"
        await tenant.create(deadline=duration_pb2.Duration(seconds=60))


async def test_too_many_waiting_are_refused_with_a_time_to_retry(idle_room: Room) -> None:
    await idle_room.start(queued_generations_max=4, queued_per_tenant_max=3, poll_interval_s=30.0)
    one, two = await idle_room.tenant(), await idle_room.tenant()
    first = request()
    made = (await one.generations.CreateGeneration(first)).generation
    for _ in range(2):
        await one.create()
    refused = await refusal(one.create())
    assert isinstance(refused, errors.ResourceExhausted)
    assert (refused.reason, refused.retry_after_s > 0) == ("TENANT_QUEUE_FULL", True)
    await two.create()
    assert (await refusal(two.create())).reason == "QUEUE_FULL"
    again = (await one.generations.CreateGeneration(first)).generation
    assert again.generation_id == made.generation_id, "a known key is answered all the same"


async def test_extras_are_checked_by_the_models_schema(tenant: Tenant) -> None:
    def asked(**extras: float) -> pb.CreateGenerationRequest:
        image = inputs_pb2.ImageInput(prompt="x")
        image.extras.update(extras)
        return request(model="extras-image", image=image)

    made = (await tenant.generations.CreateGeneration(asked(sharpness=0.5))).generation
    assert made.image.extras["sharpness"] == 0.5
    refused = await refusal(tenant.generations.CreateGeneration(asked(sharpness=2.0, colour=1.0)))
    assert sorted(fields_of(refused)) == ["image.extras.colour", "image.extras.sharpness"]


async def test_no_prompt_is_logged(tenant: Tenant, caplog: pytest.LogCaptureFixture) -> None:
    await tenant.create(image=inputs_pb2.ImageInput(prompt="canary-prompt"), tags={"canary-tag": "x"})
    assert "canary" not in caplog.text
