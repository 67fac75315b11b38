from darkroom import errors, ids
from darkroom.api.model_runner.v1 import runner_service_pb2 as runner_pb
from darkroom.api.scheduler.v1 import generation_service_pb2 as pb
from darkroom.api.types.v1 import inputs_pb2
from darkroom.scheduler.fakes import loras
from darkroom.scheduler.store import fleet as fleet_store
from tests.scheduler import stage
from tests.scheduler.conftest import ESTIMATE_NANOS, MODEL, eventually, fields_of, refusal
from tests.scheduler.store import placed


def asking(accelerator: str = "", **image) -> pb.EstimateGenerationRequest:
    wanted = inputs_pb2.ImageInput(prompt="a red circle", **image)
    return pb.EstimateGenerationRequest(
        generation=pb.CreateGenerationRequest(model=MODEL, image=wanted), accelerator=accelerator
    )


async def test_without_runners_the_catalogue_is_what_there_is(tenant):
    told = await tenant.generations.EstimateGeneration(asking())
    assert told.price_max.nanos == ESTIMATE_NANOS
    assert (told.steps_total, told.memory_bytes) == (10, 1)
    assert not told.HasField("wait_us")
    assert not told.HasField("completion_us")
    assert not told.accelerators


async def test_it_is_told_for_each_kind_of_accelerator_what_its_runners_measured(room, tenant):
    async with stage.runners(room, "node-a") as (runner,):
        runner.behaviour.fixed_costs = [
            runner_pb.FixedCost(model=MODEL, shape="64x64", prepare_us=600, decode_us=400, encode_us=50)
        ]
        runner.behaviour.step_costs = [runner_pb.StepCost(model=MODEL, shape="64x64", rows=1, step_us=500, guided=True)]

        async def measured() -> bool:
            answer = await tenant.generations.EstimateGeneration(asking())
            return any(one.measured for one in answer.accelerators)

        await eventually(measured)
        told = await tenant.generations.EstimateGeneration(asking())
        (kind,) = told.accelerators
        assert (kind.work_us, told.wait_us, told.steps_total) == (6_000, 0, 10)
        assert (kind.encode_us, told.completion_us) == (50, 6_050)
        assert kind.price.nanos == 1_000_000 + 60_000
        assert told.price_max.nanos == 1_000_000 + 120_000  # twice the time is reserved
        (larger,) = (await tenant.generations.EstimateGeneration(asking(width=128))).accelerators
        assert (larger.work_us, larger.measured) == (600 + 2 * 5_400, False)
        named = await tenant.generations.EstimateGeneration(asking(kind.accelerator))
        assert list(named.accelerators) == [kind]
        assert isinstance(await refusal(tenant.generations.EstimateGeneration(asking("abacus"))), errors.NotFound)
        created = await tenant.create()
        assert created.estimate == told.price_max


async def test_what_is_reserved_holds_on_the_slowest_kind(idle_room):
    await idle_room.start(stream_grace_s=60.0)  # nobody answers at their addresses
    tenant = await idle_room.tenant()
    statuses = {}
    for product, shape, step_us in (("H200", "128x64", 100), ("L4", "64x64", 500)):
        registered = await placed.register(
            idle_room.database, pool=product.lower(), device={"product": product}, models=[MODEL]
        )
        costs = [{"model": MODEL, "shape": shape, "rows": 1, "step_us": step_us, "guided": True}]
        statuses[registered.runner_id] = {"heartbeat": {"resident_models": [MODEL], "step_costs": costs}}
    await fleet_store.Fleet(idle_room.database).save_status(statuses)

    async def measured() -> bool:
        told = await tenant.generations.EstimateGeneration(asking(width=128))
        return [kind.work_us for kind in told.accelerators] == [1_000, 10_000]

    await eventually(measured)
    told = await tenant.generations.EstimateGeneration(asking(width=128))
    assert [kind.measured for kind in told.accelerators] == [True, False]
    assert told.price_max.nanos == 1_000_000 + 200_000  # twice the time on the slower
    assert told.completion_us == 1_000  # on the faster


async def test_a_bad_request_is_refused_as_a_create_would_be(tenant):
    refused = await refusal(tenant.generations.EstimateGeneration(asking(steps=10**6)))
    assert fields_of(refused) == ["image.steps"]
    refused = await refusal(tenant.generations.EstimateGeneration(pb.EstimateGenerationRequest()))
    assert fields_of(refused) == ["model"]


async def test_what_a_create_would_not_find_is_not_found(room, tenant):
    misfit = ids.new("lora")
    room.loras.adapters = {misfit: loras.Adapter(tenant.tenant_id, "another-model")}

    def with_adapter(adapter_id: str) -> pb.EstimateGenerationRequest:
        return asking(adapters=[inputs_pb2.AdapterRef(adapter_id=adapter_id)])

    refused = await refusal(tenant.generations.EstimateGeneration(with_adapter(misfit)))
    assert fields_of(refused) == ["image.adapters[0].adapter_id"]
    refused = await refusal(tenant.generations.EstimateGeneration(with_adapter(ids.new("lora"))))
    assert isinstance(refused, errors.NotFound)
