"""billing_meter as the scheduler needs it: prices in force, grants ahead of need, outcomes and releases.

Errors of the wire come out as `darkroom.errors`.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence

import grpc

from darkroom import errors, pricing, rpc
from darkroom.api.billing_meter.v1 import metering_service_pb2, metering_service_pb2_grpc
from darkroom.api.types.v1 import money_pb2
from darkroom.scheduler.domain import spending

_log = logging.getLogger(__name__)


class Billing:
    """Calls MeteringService over one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = metering_service_pb2_grpc.MeteringServiceStub(channel)

    async def prices(self) -> dict[str, spending.Price]:
        """The prices in force, by model."""
        with _translated():
            answer = await self._stub.ListPrices(metering_service_pb2.ListPricesRequest())
        return {
            version.model: spending.Price(
                version.price_version_id,
                pricing.Rates(
                    currency=version.currency,
                    nanos_per_image=version.nanos_per_image,
                    nanos_per_megapixel=version.nanos_per_megapixel,
                    nanos_per_gpu_second=version.nanos_per_gpu_second,
                    nanos_per_media_second=version.nanos_per_media_second,
                    minimum_nanos=version.minimum_nanos,
                ),
            )
            for version in answer.prices
        }

    async def grant(self, grant: spending.Grant) -> int:
        """Ask for money (again, under the same id, if the answer was lost); the nanos granted, FailedPrecondition if none."""
        with _translated():
            answer = await self._stub.GrantLease(
                metering_service_pb2.GrantLeaseRequest(
                    tenant_id=grant.tenant_id,
                    grant_id=grant.grant_id,
                    wanted=money_pb2.Money(currency=grant.currency, nanos=grant.wanted_nanos),
                    least=money_pb2.Money(currency=grant.currency, nanos=grant.least_nanos),
                )
            )
        return answer.granted.nanos

    async def release(self, payload: bytes) -> None:
        """Give money back: a serialised ReleaseLeaseRequest."""
        with _translated():
            await self._stub.ReleaseLease(metering_service_pb2.ReleaseLeaseRequest.FromString(payload))

    async def record(self, payloads: Sequence[bytes]) -> list[str]:
        """Record outcomes (serialised Outcome messages); for each why it was refused, or "" if it is recorded."""
        request = metering_service_pb2.RecordOutcomesRequest(
            outcomes=[metering_service_pb2.Outcome.FromString(payload) for payload in payloads]
        )
        with _translated():
            answer = await self._stub.RecordOutcomes(request)
        if len(answer.outcomes) != len(payloads):
            raise errors.Internal("billing_meter answered for another number of outcomes")
        return [outcome.refusal for outcome in answer.outcomes]


class Prices:
    """The prices in force, at most so many seconds old; older ones are used while billing_meter is away."""

    def __init__(self, billing: Billing, *, cache_s: float) -> None:
        self._billing = billing
        self._cache_s = cache_s
        self._prices: dict[str, spending.Price] = {}
        self._stale_at_s = -1.0
        self._lock = asyncio.Lock()

    async def known(self) -> Mapping[str, spending.Price]:
        """The prices by model; none if none was ever learned, for billing_meter is away."""
        try:
            return await self._read(())
        except errors.Unavailable:
            return {}

    async def of(self, model: str) -> spending.Price:
        """The model's price; FailedPrecondition if it has none, Unavailable if none was ever learned."""
        await self._read((model,))
        if model not in self._prices:
            raise errors.FailedPrecondition("PRICE_MISSING", f"the model {model} has no price yet")
        return self._prices[model]

    async def _read(self, models: Collection[str]) -> Mapping[str, spending.Price]:
        """Ask for the prices if they are old, or if one of these models has none."""
        async with self._lock:
            if time.monotonic() >= self._stale_at_s or not self._prices.keys() >= set(models):
                await self._refresh()
            return self._prices

    async def _refresh(self) -> None:
        try:
            self._prices = await self._billing.prices()
        except errors.Unavailable:
            if not self._prices:
                raise
            _log.warning("billing_meter is away; the last prices are used")
        self._stale_at_s = time.monotonic() + self._cache_s


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise rpc.from_rpc_error(error) from error
