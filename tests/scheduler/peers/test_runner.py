import asyncio
import dataclasses
import datetime

import pytest

from darkroom import errors, ids, pricing, rpc, settings, tokens
from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.api.model_runner.v1 import runner_service_pb2_grpc
from darkroom.api.scheduler.v1 import generation_service_pb2
from darkroom.api.types.v1 import inputs_pb2, money_pb2
from darkroom.scheduler.domain import fleet
from darkroom.scheduler.peers import runner as peer

KEY = fleet.Key("gen_1", 7, 2)


def begun(deadline=None, **inputs):
    accepted = generation_service_pb2.CreateGenerationRequest(model="m", idempotency_key="secret", **inputs)
    attempt = fleet.Attempt(KEY, "ten_1", "m", "run_1", True, 3, 5, 0, 3, 0)
    return fleet.Begun(attempt, "sha256:0", accepted.SerializeToString(), deadline)


def test_hello_says_who_owns_and_how_long_to_wait():
    hello = peer.hello(fleet.Fence("pool", "replica-1", 7), runner_grace_s=2.5).hello
    assert (hello.pool, hello.owner_id, hello.owner_epoch) == ("pool", "replica-1", 7)
    assert hello.stream_grace.ToTimedelta() == datetime.timedelta(seconds=2.5)


@pytest.mark.parametrize(
    "inputs",
    [
        {"image": inputs_pb2.ImageInput(prompt="a red circle", steps=3, seed=5)},
        {"video": inputs_pb2.VideoInput(prompt="a red circle", num_frames=9)},
        {"audio": inputs_pb2.AudioInput(prompt="a bell", duration_us=5)},
    ],
)
def test_an_assignment_carries_the_accepted_input(inputs):
    deadline = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
    assign = peer.assign(begun(deadline, **inputs), capability="token").assign
    assert peer.key(assign.key) == KEY
    assert (assign.tenant_id, assign.model, assign.model_revision) == ("ten_1", "m", "sha256:0")
    assert (assign.priority, assign.capability, assign.solo) == (3, "token", True)
    assert assign.deadline.ToDatetime(datetime.UTC) == deadline
    [(kind, wanted)] = inputs.items()
    assert getattr(assign, kind) == wanted


def test_without_a_deadline_none_is_sent():
    assign = peer.assign(begun(image=inputs_pb2.ImageInput(prompt="x")), capability="token").assign
    assert not assign.HasField("deadline")


def test_an_assignment_says_where_to_go_on():
    used = dataclasses.asdict(pricing.Quantities(gpu_time_us=5, steps=4))
    kept = fleet.Checkpoint(KEY._replace(attempt=1), ids.new("med"), 4, used)
    message = peer.assign(begun()._replace(checkpoint=kept), capability="token").assign
    assert peer.checkpoint(message.checkpoint) == kept
    assert not peer.assign(begun(), capability="token").assign.HasField("checkpoint")
    for nowhere in ("", "med_\0", ids.new("gen")):
        assert peer.checkpoint(pb.Checkpoint(key=message.key, step=4, media_id=nowhere)) is None
    backwards = pb.Checkpoint(key=message.checkpoint.key, step=-4, media_id=kept.media_id)
    assert peer.checkpoint(backwards) == kept._replace(step=0, usage=dataclasses.asdict(pricing.Quantities()))


def test_cancels_and_acknowledgements_name_the_attempt():
    assert peer.key(peer.cancel(KEY).cancel.key) == KEY
    assert peer.key(peer.acknowledge(KEY).acknowledge.key) == KEY


def test_usage_is_never_negative():
    message = money_pb2.Usage(gpu_time_us=-1, steps=2, images=3, pixels=-4, media_duration_us=5, training_steps=6)
    message.cached_steps = 1
    assert peer.usage(message) == pricing.Quantities(
        steps=2, images=3, media_duration_us=5, training_steps=6, cached_steps=1
    )


class EndsAtOnce(runner_service_pb2_grpc.RunnerServiceServicer):
    """A runner that ends each stream after its first message."""

    async def Work(self, request_iterator, context):
        async for _ in request_iterator:
            yield pb.WorkResponse()
            return


async def no_keys(api_key):
    raise errors.Unauthenticated("no keys here")


async def test_a_stream_that_its_runner_ended_leaves_no_task(service_secret):
    server = rpc.Server(settings.Room(service_secret=service_secret), room="model_runner", verify_key=no_keys)
    server.add(runner_service_pb2_grpc.add_RunnerServiceServicer_to_server, EndsAtOnce())
    address = await server.start()
    before = asyncio.all_tasks()
    outgoing = asyncio.Queue()
    outgoing.put_nowait(pb.WorkRequest(hello=pb.Hello(pool="pool")))
    dialler = peer.Dialler(tls=None, credential=tokens.ServiceCredential(service_secret, "scheduler"))
    async with dialler.work(address, outgoing) as responses:
        assert len([response async for response in responses]) == 1
    for _ in range(20):
        await asyncio.sleep(0)
    left = [repr(task) for task in asyncio.all_tasks() - before if "_consume_request_iterator" in repr(task)]
    await server.stop()
    assert left == []


def test_what_comes_to_the_steps_is_bounded():
    cost = pb.FixedCost(model="m", shape="64x64", prepare_us=100, decode_us=-1, encode_us=2**63 - 1)
    told = peer.fixed_costs(pb.Heartbeat(fixed_costs=[cost]))
    assert told == {("m", "64x64"): (100, 0, peer.COST_US_MAX)}


def test_the_cost_of_one_row_is_that_of_the_smallest_batch():
    costs = [
        pb.StepCost(model="m", shape="64x64", rows=4, step_us=800),
        pb.StepCost(model="m", shape="64x64", rows=2, step_us=600),
        pb.StepCost(model="m", shape="64x64", rows=1, step_us=900, guided=True),
        pb.StepCost(model="m", shape="96x96", rows=0, step_us=900),
        pb.StepCost(model="k", shape="64x64", rows=1, step_us=-900),
        pb.StepCost(model="l", shape="64x64", rows=1, step_us=2**63 - 1),
    ]
    assert peer.step_costs(pb.Heartbeat(step_costs=costs)) == {
        ("m", "64x64"): 300,
        ("m", "64x64 guided"): 900,
        ("k", "64x64"): 1,
        ("l", "64x64"): peer.COST_US_MAX,
    }
