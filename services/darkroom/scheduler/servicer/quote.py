"""EstimateGeneration: what a request would take, told before anything is accepted.

A request comes in, checked as CreateGeneration checks it; the wait, the memory, and for each kind of accelerator the time and the price
go out. The numbers are those of admission: `estimate` over what the runners have measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from darkroom import catalog, errors, ids, pricing
from darkroom.api.scheduler.v1 import generation_service_pb2 as pb
from darkroom.api.types.v1 import money_pb2
from darkroom.scheduler import admit, asked, estimate
from darkroom.scheduler.domain import fleet
from darkroom.scheduler.peers import billing
from darkroom.scheduler.servicer import create

_ANY_KEY = "estimate"  # nothing is stored under it


@dataclass(frozen=True, kw_only=True)
class Quotes:
    """What an estimate is made from."""

    models: Mapping[str, catalog.ModelEntry]
    prices: billing.Prices
    stores: create.Stores
    forecast: create.Forecast
    price_safety_factor: float

    async def quote(self, tenant_id: str, request: pb.EstimateGenerationRequest) -> pb.EstimateGenerationResponse:
        """Predict a tenant's request; InvalidArgument names what is wrong with it, NotFound what is not there."""
        wished = pb.CreateGenerationRequest()
        wished.CopyFrom(request.generation)
        wished.idempotency_key = wished.idempotency_key or _ANY_KEY
        entry = admit.check(wished, self.models)
        filled = admit.fill(wished, entry)
        wanted = asked.media(filled, entry.kind)
        await self.stores.check(wanted, entry, tenant_id=tenant_id, generation_id=ids.new("gen"))
        rates = (await self.prices.of(entry.name)).rates
        kinds = self.forecast.accelerators(entry.name)
        most = estimate.estimate(wanted, entry, kinds, rates=rates, safety_factor=self.price_safety_factor)
        told = [self._on(one, wanted, entry, rates) for one in self._kinds(entry, request.accelerator)]
        return pb.EstimateGenerationResponse(
            price_max=money_pb2.Money(currency=rates.currency, nanos=most.nanos),
            wait_us=self.forecast.wait_us(entry.name, filled.priority),
            steps_total=most.steps_total,
            memory_bytes=entry.memory_bytes,
            accelerators=sorted(told, key=lambda one: (one.work_us + one.load_us, one.accelerator)),
            completion_us=create.completion_us(self.forecast, filled, entry, most),
        )

    def _kinds(self, entry: catalog.ModelEntry, product: str) -> list[fleet.Accelerator]:
        kinds = self.forecast.accelerators(entry.name)
        chosen = [kind for kind in kinds if product in ("", kind.product)]
        if product and not chosen:
            raise errors.NotFound("accelerator", product)
        return chosen

    def _on(
        self, kind: fleet.Accelerator, wanted: asked.Media, entry: catalog.ModelEntry, rates: pricing.Rates
    ) -> pb.AcceleratorEstimate:
        work = estimate.estimate(wanted, entry, [kind], rates=rates, safety_factor=1.0)
        return pb.AcceleratorEstimate(
            accelerator=kind.product,
            work_us=work.work_us,
            load_us=0 if kind.is_resident else round(entry.load_s_guess * 1e6),
            price=money_pb2.Money(currency=rates.currency, nanos=work.nanos),
            measured=estimate.is_measured(wanted, entry, kind.step_costs_us),
            encode_us=work.encode_us,
        )
