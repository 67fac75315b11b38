"""The replica as a whole: it outlives its database's restarts."""

import asyncio
import contextlib
from pathlib import Path

import grpc.aio

from darkroom import embedded_postgres
from darkroom.api.scheduler.v1 import generation_pb2
from darkroom.api.scheduler.v1 import generation_service_pb2 as pb
from tests.scheduler.conftest import ESTIMATE_NANOS, Room, Tenant, eventually, request, rooms

CREATES = 40


async def insist(tenant: Tenant, asked: pb.CreateGenerationRequest) -> str:
    """Ask until it is answered, under one key as a client does; the id."""
    while True:
        with contextlib.suppress(grpc.aio.AioRpcError):
            return str((await tenant.generations.CreateGeneration(asked)).generation.generation_id)
        await asyncio.sleep(0.1)


async def restart_under_load(room: Room, server: embedded_postgres.EmbeddedPostgres) -> None:
    tenant = await room.tenant()
    watched = await tenant.create()
    asked = [request(idempotency_key=f"key-{number}") for number in range(CREATES)]
    insisting = [asyncio.create_task(insist(tenant, each)) for each in asked]
    await asyncio.to_thread(server.restart, immediate=True)
    made = await asyncio.gather(*insisting)
    assert len(set(made)) == CREATES
    again = await asyncio.gather(*(insist(tenant, each) for each in asked))
    assert again == made, "what was acknowledged is there, and nothing was made twice"
    assert await room.database.fetchval("SELECT count(*) FROM generation") == CREATES + 1
    assert await room.database.fetchval("SELECT reserved_nanos FROM spending_lease") == (CREATES + 1) * ESTIMATE_NANOS
    wanted = pb.WatchGenerationRequest(generation_id=watched.generation_id)
    states = [change.generation.state async for change in _cancelled_on_the_way(tenant, wanted)]
    assert states == [generation_pb2.GENERATION_STATE_QUEUED, generation_pb2.GENERATION_STATE_CANCELLED]

    async def delivered() -> bool:
        return bool(await room.database.fetchval("SELECT count(*) FROM outbox WHERE delivered_at IS NOT NULL"))

    await eventually(delivered)
    assert await room.reconcile() == {}


async def _cancelled_on_the_way(tenant: Tenant, wanted: pb.WatchGenerationRequest):  # type: ignore[no-untyped-def]
    async for change in tenant.generations.WatchGeneration(wanted):
        yield change
        await tenant.generations.CancelGeneration(pb.CancelGenerationRequest(generation_id=wanted.generation_id))


async def test_a_restart_of_postgres_heals_by_itself(tmp_path: Path, service_secret: str, catalog_dir: Path) -> None:
    server = embedded_postgres.EmbeddedPostgres(tmp_path / "postgres", durable=True)
    await asyncio.to_thread(server.start)
    try:
        async with rooms(server.url(), service_secret, catalog_dir) as room:
            await room.start()
            await restart_under_load(room, server)
    finally:
        await asyncio.to_thread(server.stop)
