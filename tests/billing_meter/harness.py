"""A running meter to speak to, and what its tests have in common: a model with a price, money, finished generations."""

import dataclasses
import datetime
from typing import Any

import grpc.aio

from darkroom import errors, ids, postgres, pricing, rpc
from darkroom.api.billing_meter.v1 import (
    account_service_pb2,
    billing_service_pb2,
    billing_service_pb2_grpc,
    metering_service_pb2,
    metering_service_pb2_grpc,
)
from darkroom.api.types.v1 import money_pb2

USD = 10**9
MODEL = "pocket-test"
RATES = pricing.Rates(nanos_per_image=100_000, nanos_per_megapixel=2_000_000, nanos_per_gpu_second=500_000_000)
CATALOGUE = f"""
name: {MODEL}
kind: image
family: flux
description: A model with a price and no weights.
path: {MODEL}
revision: sha256:{"0" * 64}
license: none
guidance: true_cfg
max_sequence_length: 32
memory_bytes: 1
defaults: {{width: 64, height: 64, steps: 28, guidance_scale: 3.0}}
limits:
  width: {{min: 64, max: 128, multiple_of: 16}}
  height: {{min: 64, max: 128, multiple_of: 16}}
  steps: {{min: 1, max: 100}}
  guidance_scale: {{min: 1.0, max: 20.0}}
  num_images: {{min: 1, max: 4}}
  prompt_bytes_max: 2000
  adapters_max: 4
  pixels_max: 16384
price: {{currency: USD, nanos_per_image: 100000, nanos_per_megapixel: 2000000, nanos_per_gpu_second: 500000000}}
step_cost_us_guess: 1
load_s_guess: 1.0
"""


def usd(nanos: int) -> money_pb2.Money:
    return money_pb2.Money(currency="USD", nanos=nanos)


@dataclasses.dataclass
class Meter:
    """A running meter: `accounts` and `billing` as the operator, `metering` as the scheduler, `stub(…, key)` as a tenant."""

    address: str
    database: postgres.Database
    accounts: Any
    operator_billing: Any
    metering: Any
    verifying: Any
    channels: list[grpc.aio.Channel]

    def billing(self, key: str) -> Any:
        channel = rpc.channel(self.address, credential=lambda: key)
        self.channels.append(channel)
        return billing_service_pb2_grpc.BillingServiceStub(channel)

    def stub_for_operator(self) -> Any:
        return metering_service_pb2_grpc.MeteringServiceStub(self.channels[0])

    async def tenant(self, credit_nanos: int = 10 * USD) -> str:
        request = account_service_pb2.CreateTenantRequest(
            name="a tenant", credit=usd(credit_nanos), idempotency_key=ids.new("req")
        )
        return str((await self.accounts.CreateTenant(request)).tenant.tenant_id)

    async def key(self, tenant_id: str, name: str = "main", **fields: Any) -> Any:
        return await self.accounts.CreateKey(
            account_service_pb2.CreateKeyRequest(tenant_id=tenant_id, name=name, **fields)
        )

    async def grant(self, tenant_id: str, wanted: int, least: int = 1, grant_id: str = "") -> int:
        request = metering_service_pb2.GrantLeaseRequest(
            tenant_id=tenant_id, grant_id=grant_id or ids.new("lea"), wanted=usd(wanted), least=usd(least)
        )
        return int((await self.metering.GrantLease(request)).granted.nanos)

    async def release(self, tenant_id: str, nanos: int, release_id: str = "") -> None:
        await self.metering.ReleaseLease(
            metering_service_pb2.ReleaseLeaseRequest(
                tenant_id=tenant_id, release_id=release_id or ids.new("lea"), amount=usd(nanos)
            )
        )

    async def price_version_id(self) -> str:
        prices = (await self.metering.ListPrices(metering_service_pb2.ListPricesRequest())).prices
        return str(next(price.price_version_id for price in prices if price.model == MODEL))

    async def outcome(self, tenant_id: str, **changes: Any) -> metering_service_pb2.Outcome:
        """A charged outcome of one 64² image and 1.5 s of an accelerator, priced as the scheduler would."""
        used = {"gpu_time_us": 1_500_000, "steps": 28, "images": 1, "pixels": 4096, **changes.pop("usage", {})}
        estimate = changes.pop("estimate", usd(10 * USD))
        free = bool(changes.get("free_reason"))
        priced = 0 if free else pricing.total(pricing.lines(RATES, pricing.Quantities(**used)))
        fields: dict[str, Any] = {
            "generation_id": ids.new("gen"),
            "tenant_id": tenant_id,
            "model": MODEL,
            "price_version_id": await self.price_version_id(),
            "usage": money_pb2.Usage(**used),
            "estimate": estimate,
            "amount": usd(min(priced, estimate.nanos)),
            "tags": {"project": "tests"},
            **changes,
        }
        outcome = metering_service_pb2.Outcome(**fields)
        if not outcome.HasField("finished_at"):
            outcome.finished_at.FromDatetime(datetime.datetime(2026, 11, 20, 12, tzinfo=datetime.UTC))
        return outcome

    async def record(self, *outcomes: metering_service_pb2.Outcome) -> Any:
        request = metering_service_pb2.RecordOutcomesRequest(outcomes=outcomes)
        return (await self.metering.RecordOutcomes(request)).outcomes

    async def violations(self) -> dict[str, int]:
        """The invariants that do not hold."""
        results = (await self.operator_billing.Reconcile(billing_service_pb2.ReconcileRequest())).results
        assert len(results) >= 9
        return {result.name: result.violations for result in results if result.violations}


async def refused(call: Any) -> errors.DarkroomError:
    """The error with which a call ends."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return rpc.from_rpc_error(error)
    raise AssertionError(f"not refused: {answer}")


async def bad_fields(call: Any) -> set[str]:
    """The fields that a call's INVALID_ARGUMENT names."""
    error = await refused(call)
    assert isinstance(error, errors.InvalidArgument), error
    return {violation.field for violation in error.violations}
