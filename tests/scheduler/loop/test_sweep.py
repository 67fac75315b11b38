import pytest
from google.protobuf import duration_pb2

from darkroom.api.scheduler.v1 import generation_pb2
from darkroom.scheduler import grant
from darkroom.scheduler.loop import sweep
from darkroom.scheduler.peers import media
from tests.scheduler.conftest import Room, eventually


async def test_a_waiting_one_ends_at_its_deadline(room: Room) -> None:
    tenant = await room.tenant()
    made = await tenant.create(deadline=duration_pb2.Duration(nanos=100_000_000))

    async def ended() -> bool:
        return bool((await tenant.get(made.generation_id)).state == generation_pb2.GENERATION_STATE_CANCELLED)

    await eventually(ended)
    told = await tenant.get(made.generation_id)
    assert told.error.reason == "DEADLINE_EXCEEDED"
    assert told.finished_at.ToMicroseconds() >= told.deadline.ToMicroseconds()


async def test_old_keys_and_messages_are_forgotten(idle_room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grant, "LOOKAHEAD_S", 0.5)  # for so long after a create the lease is still topped up
    await idle_room.start(idempotency_retention_s=1.0, sweep_interval_s=0.05, lease_idle_s=0.1)
    tenant = await idle_room.tenant()
    made = await tenant.create(idempotency_key="key")

    async def forgotten() -> bool:
        return not await idle_room.database.fetchval(
            "SELECT (SELECT count(*) FROM idempotency) + (SELECT count(*) FROM spending_grant) + (SELECT count(*) FROM outbox)"
        )

    await eventually(forgotten)
    again = await tenant.create(idempotency_key="key")
    assert again.generation_id != made.generation_id


async def test_checkpoints_that_pile_up_go_without_waiting_for_the_next_sweep(
    idle_room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted = []

    async def delete(self: media.Media, media_id: str, *, tenant_id: str, generation_id: str) -> None:
        deleted.append(media_id)

    monkeypatch.setattr(media.Media, "delete", delete)
    monkeypatch.setattr(sweep, "DISCARD_BATCH_MAX", 2)
    await idle_room.start(sweep_interval_s=3600.0)
    await idle_room.database.execute(
        "INSERT INTO discarded_checkpoint (media_id, tenant_id, generation_id)"
        " SELECT 'med_' || number, 'ten_1', 'gen_1' FROM generate_series(1, 7) number"
    )
    await idle_room.start_replica(sweep_interval_s=3600.0)

    async def gone() -> bool:
        return not await idle_room.database.fetchval("SELECT count(*) FROM discarded_checkpoint")

    await eventually(gone)
    assert sorted(deleted) == [f"med_{number}" for number in range(1, 8)]
