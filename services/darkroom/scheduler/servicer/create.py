"""CreateGeneration's way in: check, price, reserve, make durable.

A tenant's request comes in; a durable generation goes out, or an error that names what is wrong. Nothing is stored, and no peer is asked,
before the request is known to be acceptable; the same key with the same parameters finds its generation whatever has changed since.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from darkroom import catalog, errors, ids
from darkroom.api.scheduler.v1 import generation_service_pb2 as pb
from darkroom.scheduler import admit, asked, estimate, sources
from darkroom.scheduler.domain import fleet
from darkroom.scheduler.domain import generation as domain
from darkroom.scheduler.peers import billing, loras, media
from darkroom.scheduler.store import creates

LEASE_TRIES_MAX = 50  # each one that fails means another create took the money meanwhile


class Funds(Protocol):
    """`loop.spending.Funds`."""

    def used(self, tenant_id: str, *, currency: str, nanos: int) -> None:
        """Note a debit."""
        ...

    async def ensure(self, tenant_id: str, *, currency: str, nanos: int) -> None:
        """Fill the lease."""
        ...


class Backlog(Protocol):
    """`loop.backlog.Backlog`."""

    def check(self, tenant_id: str) -> None:
        """Refuse when too many wait."""
        ...

    def added(self, tenant_id: str) -> None:
        """Count one more."""
        ...


class Forecast(Protocol):
    """`loop.forecast.Forecast`: what the fleet has measured, as this replica knows it."""

    def accelerators(self, model: str) -> Sequence[fleet.Accelerator]:
        """The kinds of accelerators that serve the model now."""
        ...

    def wait_us(self, model: str, priority: int) -> int | None:
        """How long a new generation would wait; None if no runner is known."""
        ...

    def completion_us(self, job: fleet.Job) -> int | None:
        """When it would be done, were it accepted now; None if no runner is known."""
        ...

    def runners(self, model: str) -> int:
        """Runners that can serve the model now."""
        ...


@dataclass(frozen=True, kw_only=True)
class Stores:
    """The rooms that have what a request may name by id."""

    loras: loras.Loras
    media: media.Media

    async def check(
        self, wanted: asked.Media, entry: catalog.ModelEntry, *, tenant_id: str, generation_id: str
    ) -> None:
        """Return if the tenant has all that is named, fit for the model; NotFound or InvalidArgument otherwise."""
        await self.loras.check(
            [adapter.adapter_id for adapter in wanted.adapters],
            field=f"{entry.kind}.adapters",
            tenant_id=tenant_id,
            generation_id=generation_id,
            model=entry.name,
        )
        pictures = sources.stored(wanted, entry.kind)
        await self.media.check_pictures(pictures, tenant_id=tenant_id, generation_id=generation_id)


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """Everything that a create goes through."""

    models: Mapping[str, catalog.ModelEntry]
    creates: creates.Creates
    prices: billing.Prices
    stores: Stores
    funds: Funds
    backlog: Backlog
    forecast: Forecast
    price_safety_factor: float

    async def accept(self, tenant_id: str, request: pb.CreateGenerationRequest) -> domain.Generation:
        """Return the durable generation for a tenant's request, new or known by its key."""
        entry = admit.check(request, self.models)
        params_sha256 = admit.params_sha256(request)
        try:
            new = await self._prepare(tenant_id, request, entry, params_sha256)
        except errors.DarkroomError:  # whatever forbids it now: a request that was accepted before is answered
            known = await self.creates.known(
                tenant_id=tenant_id, idempotency_key=request.idempotency_key, params_sha256=params_sha256
            )
            if known is None:
                raise
            return known
        return await self._commit(new)

    async def _prepare(
        self, tenant_id: str, request: pb.CreateGenerationRequest, entry: catalog.ModelEntry, params_sha256: bytes
    ) -> domain.New:
        self.backlog.check(tenant_id)
        generation_id = ids.new("gen")
        filled = admit.fill(request, entry)
        wanted = asked.media(filled, entry.kind)
        await self.stores.check(wanted, entry, tenant_id=tenant_id, generation_id=generation_id)
        price = await self.prices.of(entry.name)
        kinds = self.forecast.accelerators(entry.name)
        cost = estimate.estimate(wanted, entry, kinds, rates=price.rates, safety_factor=self.price_safety_factor)
        deadline_us = admit.deadline_us(filled)
        wait_us = self.forecast.wait_us(entry.name, filled.priority) or 0
        expected_us = completion_us(self.forecast, filled, entry, cost)
        estimate.check_deadline(deadline_us=deadline_us, expected_us=expected_us or cost.work_us, wait_us=wait_us)
        return domain.New(
            generation_id=generation_id,
            tenant_id=tenant_id,
            idempotency_key=filled.idempotency_key,
            params_sha256=params_sha256,
            model=entry.name,
            model_revision=entry.revision,
            priority=domain.Priority(filled.priority),
            input=filled.SerializeToString(),
            tags=dict(filled.tags),
            price_version_id=price.price_version_id,
            currency=price.rates.currency,
            estimate_nanos=cost.nanos,
            rates=dataclasses.asdict(price.rates),
            work_us=cost.work_us,
            fixed_us=cost.fixed_us,
            encode_us=cost.encode_us,
            steps_total=cost.steps_total,
            shape=asked.shape(wanted, entry),
            deadline_us=deadline_us,
            expected_us=expected_us,
        )

    async def _commit(self, new: domain.New) -> domain.Generation:
        for _ in range(LEASE_TRIES_MAX):
            try:
                generation = await self.creates.submit(new)
            except creates.LeaseShort:
                await self.funds.ensure(new.tenant_id, currency=new.currency, nanos=new.estimate_nanos)
                continue
            if generation.generation_id == new.generation_id:
                self.funds.used(new.tenant_id, currency=new.currency, nanos=new.estimate_nanos)
                self.backlog.added(new.tenant_id)
            return generation
        raise errors.Unavailable("the tenant's money is spent faster than it is set aside")


def completion_us(
    forecast: Forecast, filled: pb.CreateGenerationRequest, entry: catalog.ModelEntry, cost: estimate.Estimate
) -> int | None:
    """When it would be done, were it accepted now; None if no runner is known."""
    return forecast.completion_us(
        fleet.Job(
            generation_id="",
            tenant_id="",
            model=entry.name,
            shape=asked.shape(asked.media(filled, entry.kind), entry),
            priority=filled.priority,
            steps_total=cost.steps_total,
            work_us=cost.work_us,
            fixed_us=cost.fixed_us,
            encode_us=cost.encode_us,
            waited_s=0.0,
            model_load_us=round(entry.load_s_guess * 1e6),
        )
    )
