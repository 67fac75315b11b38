"""Many generations at once, and whether the books are right afterwards; for the journeys, the chaos tests and `benchmarks/load.py`.

A tenant's client and a number come in; one `Shot` per generation goes out. Every call is repeated while the platform is away: creates
carry an idempotency key, so repeating must neither lose nor double anything. `audit` then proves that, through the API and in SQL.
"""

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

import asyncpg
import tenacity

from darkroom import client, errors, money, pricing
from darkroom.api.billing_meter.v1 import billing_service_pb2 as billing_pb
from darkroom.api.scheduler.v1 import generation_pb2 as generation_pb
from darkroom.api.scheduler.v1 import generation_service_pb2 as service_pb
from darkroom.api.types.v1 import inputs_pb2
from tests import platforms

MODEL = "pocket-image"
CREDIT_NANOS = 1_000 * money.NANOS
PATIENCE_S = 120.0  # a scheduler or a database that is started again on a busy machine
POSTED_WITHIN_S = 60.0
COLOURS = ("red", "green", "blue", "yellow")

Answer = TypeVar("Answer")


class Tenant(NamedTuple):
    """Somebody with credit and a key."""

    tenant_id: str
    api_key: str


class Shot(NamedTuple):
    """One generation at its end, and how long its caller waited for it."""

    generation: generation_pb.Generation
    latency_s: float


async def new_tenant(platform: platforms.Platform, name: str) -> Tenant:
    """Make a tenant with credit and a key of all tenant scopes."""
    async with platform.operator() as operator:
        tenant = await operator.create_tenant(
            name=name, credit=money.Money(CREDIT_NANOS, "USD"), idempotency_key=f"{name}-{time.time_ns()}"
        )
        _, api_key = await operator.create_key(tenant_id=tenant.tenant_id, name="load")
    return Tenant(tenant.tenant_id, api_key)


def request(number: int, *, steps: int, run: str = "load") -> service_pb.CreateGenerationRequest:
    """The request with this number: the same number and run is the same request."""
    prompt = f"a {COLOURS[number % len(COLOURS)]} circle on a white background"
    image = inputs_pb2.ImageInput(prompt=prompt, steps=steps, seed=number, guidance_scale=1.0)
    return service_pb.CreateGenerationRequest(model=MODEL, image=image, idempotency_key=f"{run}-{number}")


async def shoot(
    darkroom: client.AsyncClient, *, count: int, concurrency: int, steps: int, progress: list[Shot] | None = None
) -> list[Shot]:
    """Make `count` generations, `concurrency` at a time, each followed to its end; `progress` gets each as it ends."""
    places = asyncio.Semaphore(concurrency)

    async def one(number: int) -> Shot:
        async with places:
            started_s = time.monotonic()
            created = await patiently(lambda: darkroom.create(request(number, steps=steps)))
            ended = await patiently(lambda: follow(darkroom, created.generation_id))
            shot = Shot(ended, time.monotonic() - started_s)
            if progress is not None:
                progress.append(shot)
            return shot

    return await asyncio.gather(*map(one, range(count)))


async def patiently(call: Callable[[], Awaitable[Answer]]) -> Answer:
    """Repeat a call while the platform, or a part of it, is away."""
    away = (errors.Unavailable, errors.Aborted, errors.DeadlineExceeded)
    async for attempt in tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(away),
        wait=tenacity.wait_random(0.1, 0.5),
        stop=tenacity.stop_after_delay(PATIENCE_S),
        reraise=True,
    ):
        with attempt:
            return await call()
    raise AssertionError("tenacity raises the last error itself")


async def audit(platform: platforms.Platform, tenant: Tenant, shots: list[Shot]) -> None:
    """Prove that all of the tenant's generations ended, each with one exact outcome, and that every sum of the books agrees."""
    ended = [shot.generation for shot in shots]
    assert len({generation.generation_id for generation in ended}) == len(ended)
    assert {generation.state for generation in ended} <= client.FINAL_STATES
    async with platform.tenant(tenant.api_key) as darkroom, platform.operator() as operator:
        charges = [await posted(darkroom, generation.generation_id) for generation in ended]
        model = await darkroom.model(MODEL)
        for generation, charge in zip(ended, charges, strict=True):
            check_charge(generation, charge, rates(model.price))
        spent_nanos = sum(charge.amount.nanos for charge in charges)
        assert (await darkroom.balance()).balance.nanos == CREDIT_NANOS - spent_nanos
        verdicts = (await operator.billing.Reconcile(billing_pb.ReconcileRequest())).results
        assert {result.name: result.violations for result in verdicts if result.violations} == {}
    charged = sum(generation.state == generation_pb.GENERATION_STATE_SUCCEEDED for generation in ended)
    await _audit_sql(platform, tenant, generations=len(ended), charged=charged, spent_nanos=spent_nanos)


def all_succeeded(shots: list[Shot]) -> bool:
    """Whether every one did."""
    return {shot.generation.state for shot in shots} == {generation_pb.GENERATION_STATE_SUCCEEDED}


async def posted(darkroom: client.AsyncClient, generation_id: str) -> billing_pb.Charge:
    """The charge, once it is in the ledger."""
    until_s = time.monotonic() + POSTED_WITHIN_S
    while (charge := await darkroom.charge(generation_id)).state == billing_pb.CHARGE_STATE_PENDING:
        assert time.monotonic() < until_s, f"the charge of {generation_id} is still pending"
        await asyncio.sleep(0.1)
    return charge


def rates(price: object) -> pricing.Rates:
    """A price message as the rates that the pricing function takes."""
    return pricing.Rates(**{field.name: getattr(price, field.name) for field in dataclasses.fields(pricing.Rates)})


def check_charge(generation: generation_pb.Generation, charge: billing_pb.Charge, rates: pricing.Rates) -> None:
    """Hold one bill against its generation: free unless it succeeded, else usage x price, at most the estimate."""
    if generation.state != generation_pb.GENERATION_STATE_SUCCEEDED:
        assert (charge.state, charge.amount.nanos) == (billing_pb.CHARGE_STATE_FREE, 0)
        assert charge.free_reason
        return
    names = ("gpu_time_us", "steps", "images", "pixels", "media_duration_us", "training_steps")
    assert charge.state == billing_pb.CHARGE_STATE_POSTED
    assert charge.usage == generation.usage
    used = pricing.Quantities(**{name: getattr(charge.usage, name) for name in names})
    due = pricing.total(pricing.lines(rates, used))
    assert charge.amount.nanos == min(due, generation.estimate.nanos)
    assert charge.amount.nanos == sum(line.amount_nanos for line in charge.lines)


async def follow(darkroom: client.AsyncClient, generation_id: str) -> generation_pb.Generation:
    """Watch a generation to its end."""
    async for generation in darkroom.watch(generation_id):
        latest = generation
    return latest


async def _audit_sql(
    platform: platforms.Platform, tenant: Tenant, *, generations: int, charged: int, spent_nanos: int
) -> None:
    connection = await asyncpg.connect(platform.postgres().url("darkroom"))
    try:

        async def row(sql: str) -> tuple[int, ...]:
            return tuple(await connection.fetchrow(sql, tenant.tenant_id))

        ledger = "FROM billing_meter.entry JOIN billing_meter.txn USING (txn_id) WHERE tenant_id = $1"
        assert await row(f"SELECT coalesce(sum(nanos), 0) {ledger}") == (0,)
        assert await row(f"SELECT coalesce(sum(nanos), 0) {ledger} AND account = 'REVENUE'") == (spent_nanos,)
        charges = "SELECT count(*), coalesce(sum(amount_nanos), 0) FROM billing_meter.charge WHERE tenant_id = $1"
        assert await row(charges) == (charged, spent_nanos)
        usage = "SELECT count(*), count(*) FILTER (WHERE free_reason = '') FROM billing_meter.usage_event"
        assert await row(f"{usage} WHERE tenant_id = $1") == (generations, charged)
        succeeded = "SELECT count(*), count(*) FILTER (WHERE state = 'SUCCEEDED') FROM scheduler.generation"
        assert await row(f"{succeeded} WHERE tenant_id = $1") == (generations, charged)
        delivered = (
            "SELECT count(*) FROM scheduler.outbox WHERE subject_id IN "
            "(SELECT generation_id FROM scheduler.generation WHERE tenant_id = $1) AND delivered_at IS NOT NULL"
        )
        # The meter has them all by now; a relay that was killed marks them delivered when it has told again.
        async with asyncio.timeout(POSTED_WITHIN_S):
            while await row(delivered) != (generations,):  # noqa: ASYNC110  # another process does it
                await asyncio.sleep(0.2)
        lease = "FROM scheduler.spending_lease WHERE tenant_id = $1"
        assert await row(f"SELECT reserved_nanos, spent_nanos {lease}") == (0, spent_nanos)
        granted = "(SELECT sum(granted_nanos) FROM billing_meter.lease_grant WHERE tenant_id = $1)"
        assert await row(f"SELECT granted_nanos - {granted} {lease}") == (0,)
        assert await row(
            f"SELECT granted_nanos - remaining_nanos - reserved_nanos - spent_nanos - released_nanos {lease}"
        ) == (0,)
    finally:
        await connection.close()
