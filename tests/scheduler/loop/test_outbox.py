import asyncio
import logging

import pytest

from darkroom import ids, postgres
from darkroom.api.billing_meter.v1 import billing_service_pb2, metering_service_pb2
from darkroom.api.scheduler.v1 import generation_service_pb2 as pb
from darkroom.scheduler.store import outbox
from tests.scheduler.conftest import Room, Tenant, eventually


async def cancelled(tenant: Tenant) -> str:
    """Create and cancel one, so that an outcome is due; its id."""
    made = await tenant.create()
    await tenant.generations.CancelGeneration(pb.CancelGenerationRequest(generation_id=made.generation_id))
    return str(made.generation_id)


async def undelivered(database: postgres.Database) -> int:
    return int(await database.fetchval("SELECT count(*) FROM outbox WHERE delivered_at IS NULL"))


async def until_delivered(room: Room, but: int = 0) -> None:
    async def done() -> bool:
        return await undelivered(room.database) == but

    await eventually(done)


async def state_of(tenant: Tenant, generation_id: str) -> int:
    wanted = billing_service_pb2.GetChargeRequest(generation_id=generation_id)
    return int((await tenant.billing.GetCharge(wanted)).charge.state)


async def test_every_end_reaches_the_meter_once(room: Room, tenant: Tenant) -> None:
    ended = await asyncio.gather(*(cancelled(tenant) for _ in range(20)))
    await until_delivered(room)
    for generation_id in ended:
        assert await state_of(tenant, generation_id) == billing_service_pb2.CHARGE_STATE_FREE
    assert await room.reconcile() == {}


async def test_a_message_delivered_twice_counts_once(room: Room, tenant: Tenant) -> None:
    await cancelled(tenant)
    await until_delivered(room)
    await room.database.execute("UPDATE outbox SET delivered_at = NULL, next_try_at = clock_timestamp()")
    await until_delivered(room)
    assert await room.database.fetchval("SELECT count(*) FROM outbox WHERE refusal IS NOT NULL") == 0
    assert await room.reconcile() == {}


async def test_nothing_is_lost_while_the_meter_is_away(room: Room, tenant: Tenant) -> None:
    made = await tenant.create()
    address = room.billing_address
    await room.stop_billing()
    await tenant.generations.CancelGeneration(pb.CancelGenerationRequest(generation_id=made.generation_id))

    async def tried() -> bool:
        return bool(await room.database.fetchval("SELECT coalesce(max(attempts), 0) >= 2 FROM outbox"))

    await eventually(tried)
    assert await undelivered(room.database) == 1
    await room.start_billing(listen_address=address)
    await until_delivered(room)
    assert await state_of(tenant, made.generation_id) == billing_service_pb2.CHARGE_STATE_FREE


async def test_what_is_refused_is_kept_and_holds_up_no_other(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    tenant = await room.tenant()
    good = metering_service_pb2.Outcome.FromString(await _payload(room, await cancelled(tenant)))
    await until_delivered(room)
    conflict, nonsense = metering_service_pb2.Outcome(), metering_service_pb2.Outcome(generation_id="not an id")
    conflict.CopyFrom(good)
    conflict.generation_id = ids.new("gen")
    conflict.amount.nanos = 10**15  # not what the usage costs
    with caplog.at_level(logging.ERROR):
        async with room.database.transaction() as connection:
            for number, outcome in enumerate((conflict, nonsense)):
                await outbox.add(
                    connection, kind="OUTCOME", subject_id=f"bad_{number}", payload=outcome.SerializeToString()
                )
        last = await cancelled(tenant)
        await until_delivered(room, but=2)
    rows = await room.database.fetch("SELECT refusal FROM outbox WHERE delivered_at IS NULL ORDER BY outbox_id")
    assert [row["refusal"] for row in rows] == ["AMOUNT_MISMATCH", "INVALID_ARGUMENT"]
    assert await state_of(tenant, last) == billing_service_pb2.CHARGE_STATE_FREE
    assert caplog.text.count("refused a message for good") == 2


async def _payload(room: Room, generation_id: str) -> bytes:
    return bytes(await room.database.fetchval("SELECT payload FROM outbox WHERE subject_id = $1", generation_id))
