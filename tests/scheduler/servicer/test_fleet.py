import grpc.aio
import pytest

from darkroom import errors, ids, rpc
from darkroom.api.scheduler.v1 import fleet_service_pb2 as pb
from darkroom.api.scheduler.v1 import fleet_service_pb2_grpc
from darkroom.api.types.v1 import device_pb2
from darkroom.scheduler.store import fleet as store
from tests.scheduler import stage
from tests.scheduler.conftest import MODEL, eventually


def request(**changes):
    values = {
        "runner_id": ids.new("run"),
        "node": "node-a",
        "address": "127.0.0.1:1",
        "device": device_pb2.Device(product="NVIDIA H200", uuid="GPU-1", memory_bytes=10**9),
        "models": ["b", "a"],
        **changes,
    }
    return pb.RegisterRunnerRequest(**values)


def operator(room):
    return fleet_service_pb2_grpc.FleetServiceStub(room.channel(room.address, lambda: room.operator_key))


async def test_a_registration_names_the_pool_and_the_lease(room):
    first = await room.fleet().RegisterRunner(request())
    second = await room.fleet().RegisterRunner(request(models=["a", "b", "a"]))
    assert first == second
    assert first.pool.startswith("nvidia-h200-")
    assert first.lease.ToTimedelta().total_seconds() == room.config().runner_lease_s
    assert (await room.fleet().RegisterRunner(request(models=["a"]))).pool != first.pool


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("runner_id", {"runner_id": ""}),
        ("runner_id", {"runner_id": "gen_" + "0" * 32}),
        ("node", {"node": ""}),
        ("node", {"node": "a\x1b[31m"}),
        ("address", {"address": ""}),
        ("device.product", {"device": device_pb2.Device()}),
        ("models", {"models": []}),
        ("models", {"models": [f"m{n}" for n in range(1001)]}),
        ("models[1]", {"models": ["a", "../b"]}),
    ],
)
async def test_bad_registrations_name_the_field(room, field, changes):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await room.fleet().RegisterRunner(request(**changes))
    error = rpc.from_rpc_error(refused.value)
    assert isinstance(error, errors.InvalidArgument)
    assert [violation.field for violation in error.violations] == [field]


async def test_a_tenant_may_neither_register_nor_look(room, tenant):
    stub = fleet_service_pb2_grpc.FleetServiceStub(room.channel(room.address, lambda: tenant.key))
    for call in (stub.RegisterRunner(request()), stub.ListRunners(pb.ListRunnersRequest())):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_operators_see_the_fleet_as_placement_sees_it(room):
    async with stage.runners(room, "node-a") as [runner]:
        runner.behaviour.utilization_percent = 30
        await stage.all_ready(room, 1)
        [shown] = (await operator(room).ListRunners(pb.ListRunnersRequest())).runners
        assert (shown.runner_id, shown.node, shown.address) == (runner.runner_id, "node-a", runner.address)
        assert (list(shown.models), list(shown.resident_models)) == ([MODEL], [MODEL])
        assert (shown.state, shown.foreign_utilization) == (pb.RUNNER_STATE_READY, 0.3)
        assert (shown.device.product, shown.sample.utilization_percent) == ("Fake 1", 30)
        assert shown.seen_at.ToDatetime() >= shown.registered_at.ToDatetime()
        runner.behaviour.healthy = False
        await eventually(lambda: _is(room, pb.RUNNER_STATE_QUARANTINED))


async def test_what_a_later_replica_publishes_besides_is_left_out(idle_room):
    await idle_room.start(stream_grace_s=60.0)  # nobody answers at its address
    wanted = request()
    await idle_room.fleet().RegisterRunner(wanted)
    status = {"heartbeat": {"resident_models": ["a"], "later": {"x": 1}, "sample": {"later": 1}}}
    await store.Fleet(idle_room.database).save_status({wanted.runner_id: status})
    await idle_room.database.execute("UPDATE runner SET device = jsonb_set(device, '{later}', '1')")
    [shown] = (await operator(idle_room).ListRunners(pb.ListRunnersRequest())).runners
    assert (list(shown.resident_models), shown.device.product) == (["a"], "NVIDIA H200")


async def test_a_draining_runner_is_shown_so(room):
    await room.fleet().RegisterRunner(request(draining=True))
    assert await _is(room, pb.RUNNER_STATE_DRAINING)


async def test_pages(idle_room):
    await idle_room.start(stream_grace_s=60.0)  # nobody answers at their addresses
    wanted = sorted([request() for _ in range(3)], key=lambda one: one.runner_id)
    for one in wanted:
        await idle_room.fleet().RegisterRunner(one)
    stub = operator(idle_room)
    first = await stub.ListRunners(pb.ListRunnersRequest(page_size=2))
    rest = await stub.ListRunners(pb.ListRunnersRequest(page_size=2, page_token=first.next_page_token))
    assert [one.runner_id for one in [*first.runners, *rest.runners]] == [one.runner_id for one in wanted]
    assert rest.next_page_token == ""


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("page_size", {"page_size": -1}),
        ("page_size", {"page_size": 201}),
        ("page_token", {"page_token": "forged"}),
    ],
)
async def test_bad_lists_name_the_field(room, field, changes):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await operator(room).ListRunners(pb.ListRunnersRequest(**changes))
    error = rpc.from_rpc_error(refused.value)
    assert isinstance(error, errors.InvalidArgument)
    assert [violation.field for violation in error.violations] == [field]


async def test_the_lost_are_shown_when_asked_for(idle_room):
    await idle_room.start(**stage.QUICK)
    await idle_room.fleet().RegisterRunner(request())  # nobody answers at its address

    async def lost() -> bool:
        shown = await operator(idle_room).ListRunners(pb.ListRunnersRequest(include_lost=True))
        return [one.state for one in shown.runners] == [pb.RUNNER_STATE_LOST]

    await eventually(lost)
    assert not (await operator(idle_room).ListRunners(pb.ListRunnersRequest())).runners


async def _is(room, state):
    [shown] = (await operator(room).ListRunners(pb.ListRunnersRequest())).runners
    return shown.state == state
