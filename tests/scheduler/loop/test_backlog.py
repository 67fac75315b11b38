import grpc.aio
import pytest

from darkroom import errors, ids
from darkroom.api.scheduler.v1 import generation_service_pb2 as pb
from darkroom.scheduler.loop import backlog
from tests.scheduler.conftest import Room, eventually


async def test_what_left_the_queue_makes_room(idle_room: Room) -> None:
    await idle_room.start(queued_generations_max=1)
    tenant = await idle_room.tenant()
    made = await tenant.create()
    await tenant.generations.CancelGeneration(pb.CancelGenerationRequest(generation_id=made.generation_id))

    async def accepted() -> bool:
        try:
            await tenant.create()
        except grpc.aio.AioRpcError as refused:
            assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # noqa: PT017  # any other ends the test
            return False
        return True

    await eventually(accepted)


def test_creates_count_at_once(idle_room: Room) -> None:
    waiting = backlog.Backlog(None, idle_room.config(billing_meter_address="x", queued_per_tenant_max=2))  # type: ignore[arg-type]
    tenant_id = ids.new("ten")
    for _ in range(2):
        waiting.check(tenant_id)
        waiting.added(tenant_id)
    with pytest.raises(errors.ResourceExhausted) as refused:
        waiting.check(tenant_id)
    assert refused.value.retry_after_s > 0
    waiting.check(ids.new("ten"))
