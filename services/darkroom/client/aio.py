"""The client for asyncio.

Endpoints and an API key come in; protobuf messages go out, and every refusal is a `DarkroomError`. `blocking` wraps it, `transfer`
moves its bytes.
"""

import asyncio
import contextlib
import pathlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import Self

import grpc
import tenacity

from darkroom import errors, money, rpc
from darkroom.api.billing_meter.v1 import account_service_pb2 as account_pb
from darkroom.api.billing_meter.v1 import account_service_pb2_grpc, billing_service_pb2_grpc
from darkroom.api.billing_meter.v1 import billing_service_pb2 as billing_pb
from darkroom.api.lora_store.v1 import lora_service_pb2 as lora_pb
from darkroom.api.lora_store.v1 import lora_service_pb2_grpc
from darkroom.api.media_store.v1 import media_service_pb2 as media_pb
from darkroom.api.media_store.v1 import media_service_pb2_grpc
from darkroom.api.scheduler.v1 import fleet_service_pb2 as fleet_pb
from darkroom.api.scheduler.v1 import fleet_service_pb2_grpc, generation_service_pb2_grpc, model_service_pb2_grpc
from darkroom.api.scheduler.v1 import generation_pb2 as generation_pb
from darkroom.api.scheduler.v1 import generation_service_pb2 as service_pb
from darkroom.api.scheduler.v1 import model_service_pb2 as model_pb
from darkroom.api.types.v1 import media_pb2, money_pb2
from darkroom.client import transfer
from darkroom.client.request import Endpoints

PAGE_SIZE = 200
POSTING_POLL_S = 0.1
RESUME_PAUSE_S = 0.5
RESUME_PATIENCE_S = 60.0  # for a scheduler that is started again somewhere
FINAL_STATES = frozenset(
    {
        generation_pb.GENERATION_STATE_SUCCEEDED,
        generation_pb.GENERATION_STATE_FAILED,
        generation_pb.GENERATION_STATE_CANCELLED,
    }
)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Turn the transport's error into ours."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise rpc.from_rpc_error(error) from None


class AsyncClient:
    """The platform, for asyncio; use it as `async with`."""

    def __init__(self, endpoints: Endpoints, *, api_key: str) -> None:
        self._endpoints = endpoints
        self._api_key = api_key
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        scheduler = await self._channel(self._endpoints.scheduler_address)
        billing = await self._channel(self._endpoints.billing_meter_address)
        self.generations = generation_service_pb2_grpc.GenerationServiceStub(scheduler)
        self.catalog = model_service_pb2_grpc.ModelServiceStub(scheduler)
        self.fleet = fleet_service_pb2_grpc.FleetServiceStub(scheduler)
        self.accounts = account_service_pb2_grpc.AccountServiceStub(billing)
        self.billing = billing_service_pb2_grpc.BillingServiceStub(billing)
        self.lora_store = lora_service_pb2_grpc.LoraServiceStub(await self._channel(self._endpoints.lora_store_address))
        self.media_store = media_service_pb2_grpc.MediaServiceStub(
            await self._channel(self._endpoints.media_store_address)
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _channel(self, address: str) -> grpc.aio.Channel:
        channel = rpc.channel(address, tls=rpc.tls(self._endpoints), credential=lambda: self._api_key)
        return await self._stack.enter_async_context(channel)

    async def create(self, request: service_pb.CreateGenerationRequest) -> generation_pb.Generation:
        """Ask for media; once this returns, the generation is durable."""
        with _translated():
            return (await self.generations.CreateGeneration(request)).generation

    async def generate(self, request: service_pb.CreateGenerationRequest) -> generation_pb.Generation:
        """Ask for media and wait for its end, whatever it is."""
        latest = await self.create(request)
        async for latest in self.watch(latest.generation_id):  # noqa: B007, B020  # the last one is the answer
            pass
        return latest

    async def get(self, generation_id: str) -> generation_pb.Generation:
        """Read one generation."""
        with _translated():
            request = service_pb.GetGenerationRequest(generation_id=generation_id)
            return (await self.generations.GetGeneration(request)).generation

    async def watch(self, generation_id: str, after_sequence: int = 0) -> AsyncIterator[generation_pb.Generation]:
        """Follow one generation to its end; a stream that breaks is taken up again where it was."""
        while True:
            request = service_pb.WatchGenerationRequest(generation_id=generation_id, after_sequence=after_sequence)
            changes = self.generations.WatchGeneration(request)
            try:
                with _translated():
                    async for change in changes:
                        after_sequence = change.generation.sequence
                        yield change.generation
                        if change.generation.state in FINAL_STATES:
                            return
            except errors.Unavailable:
                await self._back(generation_id)
            finally:
                changes.cancel()  # whoever stops watching leaves no call behind
            await asyncio.sleep(RESUME_PAUSE_S)

    async def _back(self, generation_id: str) -> None:
        """Wait until the scheduler answers again; Unavailable if it stays away."""
        async for attempt in tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(errors.Unavailable),
            wait=tenacity.wait_fixed(RESUME_PAUSE_S),
            stop=tenacity.stop_after_delay(RESUME_PATIENCE_S),
            reraise=True,
        ):
            with attempt:
                await self.get(generation_id)

    async def cancel(self, generation_id: str) -> generation_pb.Generation:
        """End one generation within a step."""
        with _translated():
            request = service_pb.CancelGenerationRequest(generation_id=generation_id)
            return (await self.generations.CancelGeneration(request)).generation

    async def all(
        self,
        *,
        model: str = "",
        state: generation_pb.GenerationState.ValueType = generation_pb.GENERATION_STATE_UNSPECIFIED,
    ) -> AsyncIterator[generation_pb.Generation]:
        """Every generation of the tenant, newest first."""
        request = service_pb.ListGenerationsRequest(page_size=PAGE_SIZE, model=model, state=state)
        while True:
            with _translated():
                page = await self.generations.ListGenerations(request)
            for generation in page.generations:
                yield generation
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def estimate(
        self, request: service_pb.CreateGenerationRequest, *, accelerator: str = ""
    ) -> service_pb.EstimateGenerationResponse:
        """What a request would take, on one kind of accelerator or each; nothing is accepted."""
        with _translated():
            return await self.generations.EstimateGeneration(
                service_pb.EstimateGenerationRequest(generation=request, accelerator=accelerator)
            )

    async def explain(self, generation_id: str) -> service_pb.ExplainGenerationResponse:
        """Why it ran where and when it did."""
        with _translated():
            return await self.generations.ExplainGeneration(
                service_pb.ExplainGenerationRequest(generation_id=generation_id)
            )

    async def models(self) -> list[model_pb.Model]:
        """The catalogue, up to 200 models."""
        with _translated():
            return list((await self.catalog.ListModels(model_pb.ListModelsRequest(page_size=PAGE_SIZE))).models)

    async def model(self, name: str) -> model_pb.Model:
        """One model of the catalogue."""
        with _translated():
            return (await self.catalog.GetModel(model_pb.GetModelRequest(name=name))).model

    async def runners(self, *, include_lost: bool = False) -> list[fleet_pb.Runner]:
        """The fleet, up to 200 runners; needs an operator's key."""
        with _translated():
            request = fleet_pb.ListRunnersRequest(page_size=PAGE_SIZE, include_lost=include_lost)
            return list((await self.fleet.ListRunners(request)).runners)

    async def download(self, artifact: media_pb2.Artifact, path: pathlib.Path) -> None:
        """Write an artifact to a file; ValueError if its bytes are not those that were stored. No half file is left."""
        parts = self.media_store.ReadMedia(media_pb.ReadMediaRequest(media_id=artifact.media_id))
        with _translated():
            await transfer.write_checked(parts, path, artifact.sha256)

    async def put_media(self, path: pathlib.Path) -> media_pb2.MediaRef:
        """Upload a picture from a file; what comes back is a request's `source_image` or `mask_image`."""
        with _translated():
            stored = await self.media_store.PutMedia(transfer.media_parts(path))
        return media_pb2.MediaRef(media_id=stored.media.media_id)

    async def push_lora(self, path: pathlib.Path, *, name: str, base_model: str) -> lora_pb.PushLoraResponse:
        """Upload an adapter from a safetensors file."""
        header = lora_pb.PushLoraHeader(
            name=name, base_model=base_model, sha256=transfer.sha256(path), size_bytes=path.stat().st_size
        )
        with _translated():
            return await self.lora_store.PushLora(transfer.parts(header, path))

    async def loras(self) -> list[lora_pb.Lora]:
        """The tenant's adapters, the 200 newest."""
        with _translated():
            return list((await self.lora_store.ListLoras(lora_pb.ListLorasRequest(page_size=PAGE_SIZE))).loras)

    async def lora(self, adapter_id: str) -> lora_pb.Lora:
        """One adapter's description."""
        with _translated():
            return (await self.lora_store.GetLora(lora_pb.GetLoraRequest(adapter_id=adapter_id))).lora

    async def pull_lora(self, adapter_id: str, path: pathlib.Path) -> lora_pb.Lora:
        """Write an adapter to a file; ValueError if its bytes are not those that were pushed. No half file is left."""
        description = await self.lora(adapter_id)
        with _translated():
            parts = self.lora_store.PullLora(lora_pb.PullLoraRequest(adapter_id=adapter_id))
            await transfer.write_checked(parts, path, description.sha256)
        return description

    async def delete_lora(self, adapter_id: str) -> None:
        """Delete an adapter."""
        with _translated():
            await self.lora_store.DeleteLora(lora_pb.DeleteLoraRequest(adapter_id=adapter_id))

    async def charge(self, generation_id: str, *, wait_s: float = 0.0) -> billing_pb.Charge:
        """One generation's billing outcome; PENDING if it has not reached the ledger within `wait_s`."""
        until_s = time.monotonic() + wait_s
        while (charge := await self._charge(generation_id)).state == billing_pb.CHARGE_STATE_PENDING:
            if time.monotonic() >= until_s:
                break
            await asyncio.sleep(POSTING_POLL_S)
        return charge

    async def _charge(self, generation_id: str) -> billing_pb.Charge:
        try:
            with _translated():
                return (await self.billing.GetCharge(billing_pb.GetChargeRequest(generation_id=generation_id))).charge
        except errors.NotFound:
            await self.get(generation_id)  # NotFound again if there is no such generation
            return billing_pb.Charge(generation_id=generation_id, state=billing_pb.CHARGE_STATE_PENDING)

    async def balance(self) -> billing_pb.GetBalanceResponse:
        """The tenant's balance, what of it is held for work, and what is available."""
        with _translated():
            return await self.billing.GetBalance(billing_pb.GetBalanceRequest())

    async def report_usage(self, request: billing_pb.ReportUsageRequest) -> billing_pb.ReportUsageResponse:
        """The tenant's posted usage over a time range."""
        with _translated():
            return await self.billing.ReportUsage(request)

    async def set_price(self, request: billing_pb.SetPriceRequest) -> billing_pb.PriceVersion:
        """Make a model's new price; once per idempotency key. Needs an operator's key, as do the verbs below."""
        with _translated():
            return (await self.billing.SetPrice(request)).price

    async def create_tenant(self, *, name: str, credit: money.Money, idempotency_key: str) -> account_pb.Tenant:
        """Make a tenant with credit."""
        amount = money_pb2.Money(currency=credit.currency, nanos=credit.nanos)
        request = account_pb.CreateTenantRequest(name=name, credit=amount, idempotency_key=idempotency_key)
        with _translated():
            return (await self.accounts.CreateTenant(request)).tenant

    async def add_credit(self, request: account_pb.AddCreditRequest) -> account_pb.Tenant:
        """Add prepaid credit to a tenant; once per idempotency key."""
        with _translated():
            return (await self.accounts.AddCredit(request)).tenant

    async def tenants(self) -> list[account_pb.Tenant]:
        """The tenants, the first 200 by id."""
        with _translated():
            return list((await self.accounts.ListTenants(account_pb.ListTenantsRequest(page_size=PAGE_SIZE))).tenants)

    async def create_key(self, *, tenant_id: str, name: str, scopes: Sequence[str] = ()) -> tuple[account_pb.Key, str]:
        """Make a key; the second part is the credential, told this once."""
        with _translated():
            made = await self.accounts.CreateKey(
                account_pb.CreateKeyRequest(tenant_id=tenant_id, name=name, scopes=scopes)
            )
        return made.key, made.api_key

    async def list_keys(self, *, tenant_id: str) -> list[account_pb.Key]:
        """A tenant's keys, the 200 newest."""
        with _translated():
            request = account_pb.ListKeysRequest(tenant_id=tenant_id, page_size=PAGE_SIZE)
            return list((await self.accounts.ListKeys(request)).keys)

    async def revoke_key(self, *, key_id: str) -> account_pb.Key:
        """End a key everywhere within 5 s."""
        with _translated():
            return (await self.accounts.RevokeKey(account_pb.RevokeKeyRequest(key_id=key_id))).key
