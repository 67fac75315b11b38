import asyncio
import contextlib

import pytest

from darkroom import tokens
from darkroom.api.model_runner.v1 import runner_service_pb2
from darkroom.api.scheduler.v1 import generation_service_pb2
from darkroom.api.types.v1 import inputs_pb2
from darkroom.scheduler.domain import fleet
from darkroom.scheduler.fakes import runner as fakes
from darkroom.scheduler.loop import link as links
from darkroom.scheduler.peers import runner as peer
from darkroom.scheduler.store import fleet as fleet_store
from tests.scheduler.conftest import eventually


class Recorder:
    """Notes what the link passes on."""

    def __init__(self):
        self.lives, self.messages, self.changes = [], [], 0

    def joined(self, link, live):
        self.lives.append(live)

    def heard(self, link, message):
        self.messages.append(message)

    def changed(self):
        self.changes += 1


@contextlib.asynccontextmanager
async def linked(secret, runner, *, runner_id="", epoch=5):
    registration = fleet_store.Registration(
        runner_id or runner.runner_id, "pool", runner.node, runner.address, {}, list(runner.models), False
    )
    dialler = peer.Dialler(tls=None, credential=tokens.ServiceCredential(secret, "scheduler"))
    link = links.Link(registration, fleet.Fence("pool", "replica-1", epoch), dialler, Recorder(), 10.0)
    task = asyncio.create_task(link.run())
    try:
        yield link
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def runner(service_secret):
    async with fakes.Runner(service_secret, node="node-a", models=("m",)) as made:
        yield made


def begun(prompt="a red circle", attempt=1):
    request = generation_service_pb2.CreateGenerationRequest(image=inputs_pb2.ImageInput(prompt=prompt, steps=3))
    key = fleet.Key("gen_" + "0" * 32, 5, attempt)
    running = fleet.Attempt(key, "ten_x", "m", "run_a", False, 2, 5, 0, 3, 0)
    return fleet.Begun(running, "r", request.SerializeToString(), None)


def capability(secret):
    return tokens.capability(secret, tenant_id="ten_x", generation_id="gen_" + "0" * 32, scopes=("media.read",))


async def until(holds):
    async def check():
        return holds()

    await eventually(check)


async def test_it_becomes_ready_and_sees_what_heartbeats_tell(runner, service_secret):
    runner.behaviour.utilization_percent = 40
    runner.behaviour.step_costs = [runner_service_pb2.StepCost(model="m", shape="64x64", rows=2, step_us=30)]
    async with linked(service_secret, runner) as link:
        assert not link.ready
        await until(lambda: link.ready)
        view = link.view()
        assert (view.runner_id, view.node, view.models, view.resident) == (
            runner.runner_id,
            "node-a",
            frozenset({"m"}),
            frozenset({"m"}),
        )
        assert (view.memory_total_bytes, view.memory_free_bytes) == (fakes.MEMORY_BYTES, fakes.MEMORY_BYTES)
        assert (view.foreign_utilization, view.draining, view.quarantine) == (0.4, False, "")
        assert view.step_us == {("m", "64x64"): 15}
        assert view.step_us is link.step_us  # read when it came, not with every look
        assert link.listener.lives == [frozenset()]
        status = link.status(3)
        assert (status["attempts"], status["foreign_utilization"]) == (3, 0.4)
        assert status["heartbeat"]["sample"]["healthy"]


async def test_an_attempt_goes_out_and_its_outcome_comes_back(runner, service_secret):
    async with linked(service_secret, runner) as link:
        await until(lambda: link.ready)
        link.send(peer.assign(begun(), capability=capability(service_secret)))
        await until(lambda: any(message.HasField("completed") for message in link.listener.messages))


async def test_after_a_break_it_dials_again_and_outcomes_come_before_joining(runner, service_secret):
    async with linked(service_secret, runner) as link:
        await until(lambda: link.ready)
        link.send(peer.assign(begun(), capability=capability(service_secret)))
        await until(lambda: any(message.HasField("completed") for message in link.listener.messages))
        link.listener.messages.clear()
        runner.break_stream()
        await until(lambda: link.stream == 2 and link.ready)
        assert [message.WhichOneof("message") for message in link.listener.messages] == ["completed"]  # once more
        assert len(link.listener.lives) == 2


async def test_another_process_at_the_address_is_no_runner_of_ours(runner, service_secret):
    async with linked(service_secret, runner, runner_id="run_" + "0" * 32) as link:
        await until(lambda: link.impostor)
        assert not link.ready


async def test_a_sick_device_stays_quarantined(runner, service_secret):
    async with linked(service_secret, runner) as link:
        await until(lambda: link.ready)
        runner.behaviour.healthy = False
        await until(lambda: bool(link.quarantine))
        assert link.quarantine == "Xid 79: the device fell off the bus"
        runner.behaviour.healthy = True
        await until(lambda: link.heartbeat.sample.healthy)
        assert link.quarantine


async def test_an_older_owner_is_turned_away(runner, service_secret):
    async with linked(service_secret, runner, epoch=5) as newer:
        await until(lambda: newer.ready)
        async with linked(service_secret, runner, epoch=4) as older:
            await until(lambda: older.stream >= 2)
            assert not older.ready
            assert newer.ready


async def test_without_a_stream_nothing_is_sent(runner, service_secret):
    await runner.die()
    async with linked(service_secret, runner) as link:
        await until(lambda: link.stream >= 2)
        link.send(peer.cancel(begun().attempt.key))
        assert not link.ready
