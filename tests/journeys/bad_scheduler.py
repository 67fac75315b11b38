"""Bad input for the scheduler and the runner."""

from typing import Any

from google.protobuf import struct_pb2

from darkroom import ids
from darkroom.api.model_runner.v1 import runner_service_pb2 as runner_pb
from darkroom.api.scheduler.v1 import fleet_service_pb2 as fleet_pb
from darkroom.api.scheduler.v1 import generation_service_pb2 as service_pb
from darkroom.api.scheduler.v1 import model_service_pb2 as model_pb
from darkroom.api.types.v1 import device_pb2, inputs_pb2, media_pb2
from tests.journeys import load
from tests.journeys.bad import ADAPTER, Bad, one, seconds

NAN, INF = float("nan"), float("inf")
STORED = media_pb2.MediaRef(media_id=ids.new("med"))


def create(field: str, image: dict[str, Any] | None = None, **fields: Any) -> Bad:
    """A create that is good but for what is given."""
    good = {
        "model": load.MODEL,
        "idempotency_key": "k",
        "image": inputs_pb2.ImageInput(**{"prompt": "x", **(image or {})}),
    }
    request = service_pb.CreateGenerationRequest(**{**good, **fields})
    return Bad("tenant", "GenerationService/CreateGeneration", (request,), field)


def struct(**values: Any) -> struct_pb2.Struct:
    made = struct_pb2.Struct()
    made.update(values)
    return made


def register(field: str, **changes: Any) -> Bad:
    good = {
        "runner_id": ids.new("run"),
        "node": "n",
        "address": "127.0.0.1:1",
        "models": ["m"],
        "device": device_pb2.Device(product="cpu"),
    }
    return Bad(
        "internal", "FleetService/RegisterRunner", (fleet_pb.RegisterRunnerRequest(**{**good, **changes}),), field
    )


TABLE = [
    # CreateGeneration: names, keys, labels
    create("model", model=""),
    create("model", model="../../etc/passwd"),
    create("model", model="Pocket-Image"),
    create("model", model="pocket-image\x00"),
    create("model", model="a" * 200_000),
    create("model", model="ﬁne"),
    create("idempotency_key", idempotency_key=""),
    create("idempotency_key", idempotency_key="k" * 256),
    create("idempotency_key", idempotency_key="ключ"),
    create("idempotency_key", idempotency_key="a\nb"),
    create("priority", priority=99),
    create("deadline", deadline=seconds(0)),
    create("deadline", deadline=seconds(-1)),
    create("deadline", deadline=seconds(0, nanos=1)),
    create("deadline", deadline=seconds(100 * 365 * 86_400)),
    create("deadline", deadline=seconds(1, nanos=-1)),
    create("tags", tags={str(number): "" for number in range(17)}),
    create("tags", tags={"": "x"}),
    create("tags", tags={"k": "v" * 257}),
    create("tags", tags={"k": "\x1b[2J"}),
    # CreateGeneration: the input
    create("image.prompt", {"prompt": ""}),
    create("image.prompt", {"prompt": " \n "}),
    create("image.prompt", {"prompt": "x" * 1_000_000}),
    create("image.prompt", {"prompt": "red\x1b[31m"}),
    create("image.prompt", {"prompt": "nul\x00"}),
    create("image.prompt", {"prompt": "left \u202e right"}),
    create("image.negative_prompt", {"negative_prompt": "\x07"}),
    create("image.width", {"width": -64}),
    create("image.width", {"width": 63}),
    create("image.width", {"width": 2**31 - 1}),
    create("image.height", {"height": 1}),
    create("image.height", {"height": 65_536}),
    create("image.steps", {"steps": -1}),
    create("image.steps", {"steps": 2**31 - 1}),
    create("image.num_images", {"num_images": 1000}),
    create("image.guidance_scale", {"guidance_scale": NAN}),
    create("image.guidance_scale", {"guidance_scale": INF}),
    create("image.guidance_scale", {"guidance_scale": -1.0}),
    create("image.seed", {"seed": -1}),
    create("image.seed", {"seed": 2**63 - 1}),
    create("image.adapters[0].adapter_id", {"adapters": [inputs_pb2.AdapterRef(adapter_id="../x")]}),
    create("image.adapters[0].scale", {"adapters": [inputs_pb2.AdapterRef(adapter_id=ADAPTER, scale=NAN)]}),
    create("image.adapters[1].adapter_id", {"adapters": [inputs_pb2.AdapterRef(adapter_id=ADAPTER)] * 2}),
    create("image.adapters", {"adapters": [inputs_pb2.AdapterRef(adapter_id=ADAPTER)] * 1000}),
    create("image.source_image", {"source_image": media_pb2.MediaRef()}),
    create("image.source_image.url", {"source_image": media_pb2.MediaRef(url="file:///etc/passwd")}),
    create("image.source_image.media_id", {"source_image": media_pb2.MediaRef(media_id="med_../../secret")}),
    create("image.source_image", {"source_image": media_pb2.MediaRef()}),
    create("image.source_image.url", {"source_image": media_pb2.MediaRef(url="http://169.254.169.254/latest")}),
    create("image.source_image.media_id", {"source_image": media_pb2.MediaRef(media_id="../x")}),
    create("image.source_image.inline", {"source_image": media_pb2.MediaRef(inline=b"<svg/>")}),
    create("image.mask_image", {"mask_image": STORED}),
    create("image.strength", {"strength": 0.5}),
    *[create("image.strength", {"source_image": STORED, "strength": strength}) for strength in (0.0, -1.0, NAN, INF)],
    *[create("image.sampler", {"sampler": name}) for name in ("unheard", "FLOW_EULER", "unipc\0", "x" * 100_000)],
    *[create("image.quality", {"quality": number}) for number in (99, -1)],
    create("image.extras.unheard", {"extras": struct(unheard=1)}),
    create("image.extras", {"extras": struct(number=NAN)}),
    one(
        "tenant",
        "GenerationService/CreateGeneration",
        service_pb.CreateGenerationRequest(model=load.MODEL, idempotency_key="k"),
        "image",
    ),
    create("video", video=inputs_pb2.VideoInput(prompt="x")),
    create("lora_training", lora_training=inputs_pb2.LoraTrainingInput(rank=4)),
    # the other methods of the scheduler
    one("tenant", "GenerationService/GetGeneration", service_pb.GetGenerationRequest(), "generation_id"),
    one(
        "tenant",
        "GenerationService/GetGeneration",
        service_pb.GetGenerationRequest(generation_id="gen_1"),
        "generation_id",
    ),
    one(
        "tenant",
        "GenerationService/CancelGeneration",
        service_pb.CancelGenerationRequest(generation_id=ADAPTER),
        "generation_id",
    ),
    one(
        "tenant",
        "GenerationService/WatchGeneration",
        service_pb.WatchGenerationRequest(generation_id="x"),
        "generation_id",
    ),
    one("tenant", "GenerationService/ExplainGeneration", service_pb.ExplainGenerationRequest(), "generation_id"),
    one("tenant", "GenerationService/EstimateGeneration", service_pb.EstimateGenerationRequest(), "model"),
    one("tenant", "GenerationService/ListGenerations", service_pb.ListGenerationsRequest(page_size=201), "page_size"),
    one(
        "tenant",
        "GenerationService/ListGenerations",
        service_pb.ListGenerationsRequest(page_token="forged"),
        "page_token",
    ),
    one("tenant", "GenerationService/ListGenerations", service_pb.ListGenerationsRequest(state=99), "state"),
    one("tenant", "GenerationService/ListGenerations", service_pb.ListGenerationsRequest(model="A B"), "model"),
    one("tenant", "ModelService/ListModels", model_pb.ListModelsRequest(page_size=-1), "page_size"),
    one("tenant", "ModelService/ListModels", model_pb.ListModelsRequest(page_token="x" * 5000), "page_token"),
    one("tenant", "ModelService/GetModel", model_pb.GetModelRequest(name="a/b"), "name"),
    one("operator", "FleetService/ListRunners", fleet_pb.ListRunnersRequest(page_size=1000), "page_size"),
    one("operator", "FleetService/ListRunners", fleet_pb.ListRunnersRequest(page_token="x"), "page_token"),
    register("runner_id", runner_id="run_1"),
    register("node", node=""),
    register("address", address="a" * 300),
    register("device.product", device=device_pb2.Device()),
    register("models", models=[]),
    register("models[0]", models=["../m"]),
    # the runner
    one("internal", "RunnerService/Work", runner_pb.WorkRequest(cancel=runner_pb.Cancel()), "hello"),
]
