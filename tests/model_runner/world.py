"""What a runner lives among, over real gRPC: the two stores on a real database, a scheduler that hears registrations, an owner by hand."""

import asyncio
import contextlib
import dataclasses
import datetime
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Self

import grpc.aio
import safetensors.torch
import torch

from darkroom import errors, ids, rpc, settings, tokens
from darkroom.api.lora_store.v1 import lora_service_pb2, lora_service_pb2_grpc
from darkroom.api.media_store.v1 import media_service_pb2, media_service_pb2_grpc
from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.api.model_runner.v1 import runner_service_pb2_grpc
from darkroom.api.scheduler.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from darkroom.api.types.v1 import inputs_pb2
from darkroom.model_runner import server
from darkroom.model_runner.config import Config
from darkroom.model_runner.engine.job import ModelSpec

MODEL = "tiny"
SCOPES = ("loras.read", "media.read", "media.write")
ENDLESS_STEPS = 50_000  # minutes of work
PATIENCE_S = 120.0  # a process that imports torch on a busy machine takes a minute
CATALOGUE = """
name: {name}
kind: image
family: flux
description: A model of random weights.
path: {path}
revision: {revision}
license: none
guidance: true_cfg
max_sequence_length: 12
memory_bytes: 1000000
defaults: {{width: 32, height: 32, steps: 4, guidance_scale: 3.0}}
limits:
  width: {{min: 32, max: 64, multiple_of: 16}}
  height: {{min: 32, max: 64, multiple_of: 16}}
  steps: {{min: 1, max: 100}}
  guidance_scale: {{min: 1.0, max: 20.0}}
  num_images: {{min: 1, max: 4}}
  prompt_bytes_max: 2000
  adapters_max: 4
  pixels_max: 4096
price: {{currency: USD}}
step_cost_us_guess: 1
load_s_guess: 1.0
"""


def write_catalogue(folder: Path, spec: ModelSpec, *, name: str = MODEL, **changes: str) -> Path:
    facts = {"name": name, "path": str(spec.path), "revision": spec.revision, **changes}
    (folder / f"{name}.yaml").write_text(CATALOGUE.format(**facts))
    return folder


@contextlib.asynccontextmanager
async def serving(start: Callable[..., Coroutine[Any, Any, None]], config: settings.Room) -> AsyncIterator[str]:
    """Run a room in this process; lends its address."""
    address: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    task: asyncio.Future[Any] = asyncio.create_task(start(config, ready=address.set_result))
    await asyncio.wait([task, address], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
    try:
        yield address.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Registrations(fleet_service_pb2_grpc.FleetServiceServicer):
    """Hears who registers; `away` makes it refuse all, `lost` those taken for dead."""

    def __init__(self) -> None:
        self.heard: list[fleet_service_pb2.RegisterRunnerRequest] = []
        self.more = asyncio.Event()
        self.away = False
        self.lost: set[str] = set()
        self.refused = asyncio.Event()

    async def RegisterRunner(self, request: Any, context: Any) -> fleet_service_pb2.RegisterRunnerResponse:
        if self.away:
            self.refused.set()
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        if request.runner_id in self.lost:
            raise errors.FailedPrecondition("RUNNER_LOST", "taken for dead")
        if request.runner_id in self.lost:
            raise errors.FailedPrecondition("RUNNER_LOST", "the runner was taken for dead")
        self.heard.append(request)
        self.more.set()
        return fleet_service_pb2.RegisterRunnerResponse(pool="pool")

    async def ListRunners(self, request: Any, context: Any) -> fleet_service_pb2.ListRunnersResponse:
        raise errors.NotFound("fleet", "here")

    async def next(self) -> fleet_service_pb2.RegisterRunnerRequest:
        self.more.clear()
        async with asyncio.timeout(PATIENCE_S):
            await self.more.wait()
        return self.heard[-1]


@dataclasses.dataclass
class World:
    """The runner's neighbours, and what starts a runner among them."""

    service_secret: str
    addresses: dict[str, str]
    catalog_dir: Path
    registrations: Registrations
    tenant_id: str = dataclasses.field(default_factory=lambda: ids.new("ten"))

    def config(self, **changes: Any) -> Config:
        defaults: dict[str, Any] = {
            "service_secret": self.service_secret,
            "catalog_dir": str(self.catalog_dir),
            "device": "cpu",
            "shutdown_grace_s": 0.0,
            "register_interval_s": 0.05,
            "heartbeat_interval_s": 0.05,
            **self.addresses,
        }
        return Config(**(defaults | changes))

    def runner(self, **changes: Any) -> contextlib.AbstractAsyncContextManager[str]:
        return serving(server.serve, self.config(**changes))

    def owner(self, address: str, *, epoch: int = 1, grace_s: float = 30.0) -> "Owner":
        credential = tokens.ServiceCredential(self.service_secret, "scheduler")
        return Owner(rpc.channel(address, credential=credential), epoch=epoch, grace_s=grace_s)

    def capability(self, generation_id: str, tenant_id: str = "") -> str:
        return tokens.capability(
            self.service_secret, tenant_id=tenant_id or self.tenant_id, generation_id=generation_id, scopes=SCOPES
        )

    def assign(self, *, attempt: int = 1, generation_id: str = "", solo: bool = False, **image: Any) -> pb.Assign:
        generation_id = generation_id or ids.new("gen")
        values: dict[str, Any] = {
            "prompt": "a red circle",
            "width": 32,
            "height": 32,
            "steps": 4,
            "guidance_scale": 3.0,
            "seed": 7,
            "num_images": 1,
        }
        return pb.Assign(
            key=pb.AttemptKey(generation_id=generation_id, owner_epoch=1, attempt=attempt),
            tenant_id=self.tenant_id,
            model=MODEL,
            model_revision=revision_of(self.catalog_dir),
            image=inputs_pb2.ImageInput(**(values | image)),
            capability=self.capability(generation_id),
            solo=solo,
        )

    async def read(self, media_id: str) -> bytes:
        """An artifact's bytes, as its tenant reads them."""
        token = self.capability(ids.new("gen"))
        async with rpc.channel(self.addresses["media_store_address"], credential=lambda: token) as channel:
            request = media_service_pb2.ReadMediaRequest(media_id=media_id)
            stub = media_service_pb2_grpc.MediaServiceStub(channel)
            chunks = [bytes(part.chunk) async for part in stub.ReadMedia(request)]
        return b"".join(chunks)

    async def push(self, data: bytes, *, name: str = "style") -> str:
        """Store an adapter for the tenant; its id."""
        token = tokens.capability(
            self.service_secret, tenant_id=self.tenant_id, generation_id=ids.new("gen"), scopes=("loras.write",)
        )

        async def parts() -> AsyncIterator[lora_service_pb2.PushLoraRequest]:
            header = lora_service_pb2.PushLoraHeader(
                name=name, base_model=MODEL, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data)
            )
            yield lora_service_pb2.PushLoraRequest(header=header)
            yield lora_service_pb2.PushLoraRequest(chunk=data)

        async with rpc.channel(self.addresses["lora_store_address"], credential=lambda: token) as channel:
            answer = await lora_service_pb2_grpc.LoraServiceStub(channel).PushLora(parts())
        return str(answer.lora.adapter_id)


class Owner:
    """The owner of the runner's pool: one Work stream, opened on entering, and everything that came back in order."""

    def __init__(self, channel: grpc.aio.Channel, *, epoch: int, grace_s: float) -> None:
        self.heard: list[pb.WorkResponse] = []
        self._channel = channel
        self._hello = pb.Hello(pool="pool", owner_id="owner", owner_epoch=epoch)
        self._hello.stream_grace.FromTimedelta(datetime.timedelta(seconds=grace_s))
        self._call: Any = None
        self._looked = 0

    async def __aenter__(self) -> Self:
        self._call = runner_service_pb2_grpc.RunnerServiceStub(self._channel).Work()
        await self.send(hello=self._hello)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._call.cancel()
        await self._channel.close()

    async def send(self, **message: Any) -> None:
        await self._call.write(pb.WorkRequest(**message))

    async def next(self) -> pb.WorkResponse | None:
        """The next message; None at the stream's end, AioRpcError if it ended badly."""
        async with asyncio.timeout(PATIENCE_S):
            message = await self._call.read()
        if isinstance(message, pb.WorkResponse):
            self.heard.append(message)
            return message
        return None

    async def until(self, *kinds: str) -> Any:
        """The next message of one of these kinds, which is looked at once."""
        while True:
            while self._looked < len(self.heard):
                message = self.heard[self._looked]
                self._looked += 1
                if (kind := message.WhichOneof("message")) in kinds:
                    return getattr(message, str(kind))
            assert await self.next() is not None, f"the stream ended before {kinds}"

    async def acknowledge(self, outcome: Any) -> None:
        await self.send(acknowledge=pb.Acknowledge(key=outcome.key))


def revision_of(catalog_dir: Path) -> str:
    text = (catalog_dir / f"{MODEL}.yaml").read_text()
    return next(line.split()[1] for line in text.splitlines() if line.startswith("revision:"))


def adapter(*, inputs: int = 32, strength: float = 5.0) -> bytes:
    """A LoRA of the tiny transformer's first query projection, or one that does not fit it."""
    torch.manual_seed(3)
    name = "transformer.transformer_blocks.0.attn.to_q"
    data: bytes = safetensors.torch.save(
        {
            f"{name}.lora_A.weight": torch.randn(2, inputs) * strength,
            f"{name}.lora_B.weight": torch.randn(32, 2) * strength,
        }
    )
    return data
