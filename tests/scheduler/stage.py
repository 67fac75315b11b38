"""A scheduler with fake runners around it: what the tests of the placement half share."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from darkroom.api.scheduler.v1 import generation_pb2
from darkroom.api.scheduler.v1 import generation_service_pb2 as pb
from darkroom.api.types.v1 import inputs_pb2
from darkroom.scheduler.fakes import runner as fakes
from tests.scheduler.conftest import MODEL, Room, Tenant, eventually

QUEUED = generation_pb2.GENERATION_STATE_QUEUED
RUNNING = generation_pb2.GENERATION_STATE_RUNNING
SUCCEEDED = generation_pb2.GENERATION_STATE_SUCCEEDED
FAILED = generation_pb2.GENERATION_STATE_FAILED
CANCELLED = generation_pb2.GENERATION_STATE_CANCELLED
FINAL = {SUCCEEDED, FAILED, CANCELLED}
AGAIN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}  # a replica or its database may be away

#: Leases and graces short enough for tests, long enough for a busy machine.
QUICK = {"lease_s": 1.5, "renew_interval_s": 0.2, "stream_grace_s": 1.0, "silence_s_max": 1.0, "tick_interval_s": 0.05}


@contextlib.asynccontextmanager
async def runners(room: Room, *nodes: str, address: str = "") -> AsyncIterator[list[fakes.Runner]]:
    """One fake runner per node, registering at the room's scheduler."""
    async with contextlib.AsyncExitStack() as stack:
        made = []
        for node in nodes:
            runner = await stack.enter_async_context(fakes.Runner(room.service_secret, node=node, models=(MODEL,)))
            runner.register_at(address or room.address)
            made.append(runner)
        yield made


def image(prompt: str = "a red circle", **fields: Any) -> inputs_pb2.ImageInput:
    """An image to ask for."""
    return inputs_pb2.ImageInput(prompt=prompt, **fields)


async def until(tenant: Tenant, generation_id: str, *states: int) -> Any:
    """Wait until the generation is in one of the states (any final one if none is given); the generation."""
    now: Any = None

    async def there() -> bool:
        nonlocal now
        try:
            now = await tenant.get(generation_id)
        except grpc.aio.AioRpcError as error:
            if error.code() not in AGAIN:
                raise
            return False
        return now.state in (states or FINAL)

    await eventually(there, otherwise=lambda: f"still\n{now}")
    return now


async def decisions(tenant: Tenant, generation_id: str) -> Any:
    """Its placements so far."""
    explained = await tenant.generations.ExplainGeneration(pb.ExplainGenerationRequest(generation_id=generation_id))
    return explained.decisions


async def cancel(tenant: Tenant, generation_id: str) -> Any:
    """Ask for its end; the generation."""
    wanted = pb.CancelGenerationRequest(generation_id=generation_id)
    return (await tenant.generations.CancelGeneration(wanted)).generation


async def settled(room: Room, finished: int) -> None:
    """Every finished generation has exactly one outcome at the meter, nothing stays reserved, and the ledger adds up."""

    async def delivered() -> bool:
        return not await room.database.fetchval("SELECT count(*) FROM outbox WHERE delivered_at IS NULL")

    await eventually(delivered)
    assert await room.database.fetchval("SELECT count(*) FROM outbox WHERE kind = 'OUTCOME'") == finished
    assert await room.database.fetchval("SELECT coalesce(sum(reserved_nanos), 0) FROM spending_lease") == 0
    assert await room.database.fetchval("SELECT count(*) FROM outbox WHERE refusal IS NOT NULL") == 0
    assert await room.reconcile() == {}


async def all_ready(room: Room, count: int) -> None:
    """Wait until the pool's owner has heard of so many runners."""

    async def heard() -> bool:
        return bool(await room.database.fetchval("SELECT count(*) FROM runner WHERE status IS NOT NULL") >= count)

    await eventually(heard)
