"""A scheduler that listens on loopback, with a real billing_meter, both over one fresh database, and a lora_store told what it has."""

import asyncio
import dataclasses
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from darkroom import errors, ids, postgres, rpc, tokens
from darkroom.api.billing_meter.v1 import (
    account_service_pb2,
    account_service_pb2_grpc,
    billing_service_pb2,
    billing_service_pb2_grpc,
)
from darkroom.api.lora_store.v1 import lora_service_pb2_grpc
from darkroom.api.scheduler.v1 import (
    fleet_service_pb2_grpc,
    generation_service_pb2,
    generation_service_pb2_grpc,
    model_service_pb2_grpc,
)
from darkroom.api.types.v1 import inputs_pb2, money_pb2
from darkroom.billing_meter import api_key
from darkroom.billing_meter import server as billing_server
from darkroom.billing_meter.config import Config as BillingConfig
from darkroom.scheduler import server
from darkroom.scheduler.config import Config
from darkroom.scheduler.fakes import loras
from tests.scheduler import waiting
from tests.scheduler.waiting import eventually as eventually  # where the tests look for it

USD = 10**9
MODEL = "test-image"
CATALOGUE = """
name: {name}
kind: image
family: flux
description: A model with a price and no weights.
path: {name}
revision: sha256:0000000000000000000000000000000000000000000000000000000000000000
license: none
guidance: true_cfg
max_sequence_length: 32
memory_bytes: 1
defaults: {{width: 64, height: 64, steps: 10, guidance_scale: 3.0}}
limits:
  width: {{min: 64, max: 128, multiple_of: 16}}
  height: {{min: 64, max: 128, multiple_of: 16}}
  steps: {{min: 1, max: 100}}
  guidance_scale: {{min: 1.0, max: 20.0}}
  num_images: {{min: 1, max: 4}}
  prompt_bytes_max: 2000
  adapters_max: 2
  pixels_max: 12288
extras_schema: {extras}
samplers: [flow_euler, unipc]
qualities: [LOSSLESS, DRAFT]
price: {{currency: USD, nanos_per_image: 1000000, nanos_per_megapixel: 0, nanos_per_gpu_second: 10000000}}
step_cost_us_guess: 1000
load_s_guess: 1.0
"""
# One image at the defaults: 10 steps of 1 ms, reserved twice: 1,000,000 + 0.02 s x 10,000,000 = 1,200,000 nanos.
ESTIMATE_NANOS = 1_200_000


@pytest.fixture
def catalog_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "models"
    directory.mkdir()
    (directory / f"{MODEL}.yaml").write_text(CATALOGUE.format(name=MODEL, extras="{}"))
    schema = "{type: object, properties: {sharpness: {type: number, minimum: 0, maximum: 1}}}"
    (directory / "extras-image.yaml").write_text(CATALOGUE.format(name="extras-image", extras=schema))
    return directory


def request(**fields: Any) -> generation_service_pb2.CreateGenerationRequest:
    """A good request; keyword arguments replace its fields."""
    fields = {
        "model": MODEL,
        "image": inputs_pb2.ImageInput(prompt="a red circle"),
        "idempotency_key": secrets.token_hex(8),
        **fields,
    }
    return generation_service_pb2.CreateGenerationRequest(**fields)


@dataclasses.dataclass
class Tenant:
    """A tenant with a key, and its stubs at one replica."""

    tenant_id: str
    key: str
    generations: Any
    models: Any
    billing: Any

    async def create(self, **fields: Any) -> Any:
        """Create with `request(**fields)`; the generation."""
        return (await self.generations.CreateGeneration(request(**fields), timeout=waiting.WITHIN_S)).generation

    async def get(self, generation_id: str) -> Any:
        """Read one; the generation."""
        wanted = generation_service_pb2.GetGenerationRequest(generation_id=generation_id)
        return (await self.generations.GetGeneration(wanted)).generation


class Room:
    """The rooms under test, started on demand."""

    def __init__(self, stack: AsyncExitStack, database_url: str, service_secret: str, catalog_dir: Path) -> None:
        self._stack = stack
        self.database_url = database_url
        self.service_secret = service_secret
        self.catalog_dir = catalog_dir
        self.operator_key = api_key.mint().text
        self.loras = loras.FakeLoras()
        self.billing_address = ""
        self.lora_address = ""
        self.address = ""
        self.database: postgres.Database

    async def start(self, **settings: Any) -> str:
        """Start everything with one scheduler replica; its address."""
        self.billing_address = await self.start_billing()
        fake = rpc.Server(self.config(), room="lora_store", verify_key=loras.refuse_keys)
        fake.add(lora_service_pb2_grpc.add_LoraServiceServicer_to_server, self.loras)
        self.lora_address = await fake.start()
        self._stack.push_async_callback(fake.stop)
        self.address = await self.start_replica(**settings)
        self.database = await self._stack.enter_async_context(postgres.connect(self.database_url, schema="scheduler"))
        return self.address

    async def start_billing(self, listen_address: str = "127.0.0.1:0") -> str:
        """Start a billing_meter; its address."""
        config = BillingConfig(
            listen_address=listen_address,
            service_secret=self.service_secret,
            database_url=self.database_url,
            database_connections_max=3,
            catalog_dir=self.catalog_dir,
            operator_key=self.operator_key,
            shutdown_grace_s=0.1,
        )
        address, self.stop_billing = await self._serve(lambda ready: billing_server.serve(config, ready=ready))
        return address

    async def start_replica(self, **settings: Any) -> str:
        """Start one more scheduler replica; its address. `stop_replica` stops the latest."""
        config = self.config(**settings)
        address, self.stop_replica = await self._serve(lambda ready: server.serve(config, ready=ready))
        return address

    def config(self, **settings: Any) -> Config:
        """The scheduler's settings, quick."""
        values = {
            "service_secret": self.service_secret,
            "database_url": self.database_url,
            "billing_meter_address": self.billing_address,
            "lora_store_address": self.lora_address or "127.0.0.1:1",
            "media_store_address": "127.0.0.1:1",
            "catalog_dir": self.catalog_dir,
            "shutdown_grace_s": 0.1,
            "poll_interval_s": 0.05,
            "grant_nanos_min": 10 * ESTIMATE_NANOS,
            **settings,
        }
        return Config(**values)

    async def tenant(self, *, credit_nanos: int = USD, address: str = "") -> Tenant:
        """Make a tenant with credit and a key."""
        accounts = account_service_pb2_grpc.AccountServiceStub(
            self.channel(self.billing_address, lambda: self.operator_key)
        )
        made = await accounts.CreateTenant(
            account_service_pb2.CreateTenantRequest(
                name="a tenant",
                credit=money_pb2.Money(currency="USD", nanos=credit_nanos) if credit_nanos else None,
                idempotency_key=ids.new("req"),
            )
        )
        tenant_id = made.tenant.tenant_id
        key = await accounts.CreateKey(account_service_pb2.CreateKeyRequest(tenant_id=tenant_id, name="test"))
        return self.connect(tenant_id, key.api_key, address or self.address)

    def connect(self, tenant_id: str, key: str, address: str) -> Tenant:
        """A tenant's stubs at a replica."""
        channel = self.channel(address, lambda: key)
        return Tenant(
            tenant_id=tenant_id,
            key=key,
            generations=generation_service_pb2_grpc.GenerationServiceStub(channel),
            models=model_service_pb2_grpc.ModelServiceStub(channel),
            billing=billing_service_pb2_grpc.BillingServiceStub(self.channel(self.billing_address, lambda: key)),
        )

    def fleet(self, address: str = "") -> Any:
        """FleetService as another room calls it."""
        credential = tokens.ServiceCredential(self.service_secret, "model_runner")
        return fleet_service_pb2_grpc.FleetServiceStub(self.channel(address or self.address, credential))

    async def add_credit(self, tenant_id: str, nanos: int) -> None:
        """Add to a tenant's account."""
        accounts = account_service_pb2_grpc.AccountServiceStub(
            self.channel(self.billing_address, lambda: self.operator_key)
        )
        amount = money_pb2.Money(currency="USD", nanos=nanos)
        await accounts.AddCredit(
            account_service_pb2.AddCreditRequest(tenant_id=tenant_id, amount=amount, idempotency_key=ids.new("req"))
        )

    async def set_price(self, **price: Any) -> None:
        """Make a new price version of a model, in USD."""
        billing = billing_service_pb2_grpc.BillingServiceStub(
            self.channel(self.billing_address, lambda: self.operator_key)
        )
        version = billing_service_pb2.PriceVersion(currency="USD", **price)
        await billing.SetPrice(billing_service_pb2.SetPriceRequest(price=version, idempotency_key=ids.new("req")))

    async def reconcile(self) -> dict[str, int]:
        """The ledger's invariants that do not hold."""
        billing = billing_service_pb2_grpc.BillingServiceStub(
            self.channel(self.billing_address, lambda: self.operator_key)
        )
        answer = await billing.Reconcile(billing_service_pb2.ReconcileRequest())
        return {result.name: result.violations for result in answer.results if result.violations}

    def channel(self, address: str, credential: Callable[[], str]) -> grpc.aio.Channel:
        """A channel that is closed with the test."""
        channel = rpc.channel(address, credential=credential)
        self._stack.push_async_callback(channel.close)
        return channel

    async def _serve(
        self, serve: Callable[[Callable[[str], None]], Awaitable[None]]
    ) -> tuple[str, Callable[[], Awaitable[None]]]:
        address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        task = asyncio.ensure_future(serve(address.set_result))

        async def stop() -> None:
            task.cancel()
            await waiting.ended(task)

        self._stack.push_async_callback(stop)
        await asyncio.wait([task, address], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        return await address, stop


@asynccontextmanager
async def rooms(database_url: str, service_secret: str, catalog_dir: Path) -> AsyncIterator[Room]:
    """The rooms, not started yet."""
    async with AsyncExitStack() as stack:
        yield Room(stack, database_url, service_secret, catalog_dir)


@pytest.fixture
async def idle_room(database_url: str, service_secret: str, catalog_dir: Path) -> AsyncIterator[Room]:
    """The rooms before their start, for tests that choose settings: `await idle_room.start(...)`."""
    async with rooms(database_url, service_secret, catalog_dir) as made:
        yield made


@pytest.fixture
async def room(idle_room: Room) -> Room:
    """The rooms, started."""
    await idle_room.start()
    return idle_room


@pytest.fixture
async def tenant(room: Room) -> Tenant:
    """A tenant with one dollar."""
    return await room.tenant()


async def refusal(call: Awaitable[object]) -> errors.DarkroomError:
    """Make a call that must be refused; why."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return rpc.from_rpc_error(refused.value)


def fields_of(error: errors.DarkroomError) -> list[str]:
    """The fields that an InvalidArgument names."""
    assert isinstance(error, errors.InvalidArgument), error
    return [violation.field for violation in error.violations]
