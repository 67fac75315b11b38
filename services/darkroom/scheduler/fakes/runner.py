"""A runner with no accelerator: real gRPC, and every number computable by hand.

Tests start a `Runner`, let it register, and a scheduler finds it. An attempt takes `step_s` per step and output, and yields what
`results` says. It can die, freeze, break
its streams, kill itself over a prompt, and send outcomes that nobody asked for.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import grpc

from darkroom import errors, ids, rpc, settings, tokens
from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.api.model_runner.v1 import runner_service_pb2_grpc
from darkroom.api.scheduler.v1 import fleet_service_pb2, fleet_service_pb2_grpc, generation_pb2
from darkroom.api.types.v1 import device_pb2
from darkroom.scheduler.fakes import results

MEMORY_BYTES = 1_000_000_000
HEARTBEAT_S = 0.05

_Key = tuple[str, int, int]


@dataclasses.dataclass
class Behaviour:
    """What a test can turn, also while the runner runs."""

    step_s: float = 0.002
    utilization_percent: int = 0  # by other processes
    step_costs: list[pb.StepCost] = dataclasses.field(default_factory=list)
    fixed_costs: list[pb.FixedCost] = dataclasses.field(default_factory=list)
    memory_used_bytes: int = 0
    resident: tuple[str, ...] | None = None  # None: all its models
    healthy: bool = True
    draining: bool = False
    frozen: bool = False  # says nothing more, on connections that stay open
    deaf: bool = False  # ignores Cancel
    dies_over: str = "\0"  # a prompt that holds this kills the runner
    fails_over: str = "\0"  # a prompt that holds this makes a runner fault
    refuses: str = "\0"  # a prompt that holds this is the request's own fault
    waits_over: str = "\0"  # a prompt that holds this goes on until it is cancelled
    checkpoint_steps: int = 0  # it tells a checkpoint each time so many steps are done; 0: never


class Runner(runner_service_pb2_grpc.RunnerServiceServicer):
    """One fake runner process."""

    def __init__(
        self, service_secret: str, *, node: str = "node-a", models: tuple[str, ...] = ("pocket-image",)
    ) -> None:
        self.runner_id = ids.new("run")
        self.node = node
        self.models = models
        self.behaviour = Behaviour()
        self.address = ""
        self.assigned: list[pb.Assign] = []
        self.acknowledged: list[_Key] = []
        self.most_aboard = 0
        self.dead = False
        self._secret = service_secret
        self._server = rpc.Server(
            settings.Room(service_secret=service_secret, shutdown_grace_s=0.0, reflection=False),
            room="model_runner",
            verify_key=_no_keys,
        )
        self._server.add(runner_service_pb2_grpc.add_RunnerServiceServicer_to_server, self)
        self._live: dict[_Key, asyncio.Task[None]] = {}
        self._outcomes: dict[_Key, pb.WorkResponse] = {}
        self._checkpoints: dict[_Key, pb.Checkpoint] = {}
        self._epoch = 0
        self._stream: asyncio.Queue[pb.WorkResponse | None] | None = None
        self._busy_us = 0
        self._background: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> "Runner":
        self.address = await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.die()

    def register_at(self, scheduler_address: str, *, interval_s: float = 0.2) -> None:
        """Register with a scheduler's FleetService now and then, until it dies."""
        self._go(self._register(scheduler_address, interval_s))

    async def die(self) -> None:
        """End as a killed process does: streams cut, nothing aboard kept."""
        self.dead = True
        self.forget()
        for task in self._background:
            if task is not asyncio.current_task():
                task.cancel()
        self.break_stream()
        await self._server.stop()

    def forget(self) -> None:
        """Lose everything aboard without a word."""
        for task in self._live.values():
            task.cancel()
        self._live.clear()
        self._outcomes.clear()

    def break_stream(self) -> None:
        """Cut the present stream; the runner itself goes on."""
        if self._stream is not None:
            self._stream.put_nowait(None)

    def answer(self, message: pb.WorkResponse) -> None:
        """Send any message on the present stream, such as an outcome of an attempt that is not its own."""
        assert self._stream is not None, "no scheduler has dialled"
        self._stream.put_nowait(message)

    def aboard(self) -> list[str]:
        """The generations that go on here."""
        return [key[0] for key in self._live]

    def suspend_all(self) -> None:
        """Put everything aboard aside now, as a runner that drains."""
        for key, task in list(self._live.items()):
            checkpoint = self._checkpoints.get(key)
            self._conclude(key, pb.WorkResponse(suspended=pb.Suspended(key=_proto(key), checkpoint=checkpoint)))
            task.cancel()

    def finish_all(self) -> None:
        """Complete everything aboard now, whatever steps are left."""
        for assign in self.assigned:
            if task := self._live.get(_plain(assign.key)):
                self._conclude(_plain(assign.key), pb.WorkResponse(completed=results.completed(assign)))
                task.cancel()

    async def Work(
        self, request_iterator: AsyncIterator[pb.WorkRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.WorkResponse]:
        """Serve the owner of the pool."""
        hello = (await anext(request_iterator)).hello
        if hello.owner_epoch < self._epoch:
            raise errors.FailedPrecondition("STALE_EPOCH", "a newer owner was here")
        self.break_stream()
        self._epoch = hello.owner_epoch
        stream: asyncio.Queue[pb.WorkResponse | None] = asyncio.Queue()
        self._stream = stream
        stream.put_nowait(self._listing())
        for outcome in self._outcomes.values():
            stream.put_nowait(outcome)
        helpers = [self._go(self._take(request_iterator)), self._go(self._beat(stream))]
        try:
            while (message := await stream.get()) is not None:
                if not self.behaviour.frozen:
                    yield message
        finally:
            for helper in helpers:
                helper.cancel()
        raise errors.Unavailable("the stream was broken")

    def _listing(self) -> pb.WorkResponse:
        listing = pb.Listing(runner_id=self.runner_id, live=[_proto(key) for key in self._live])
        return pb.WorkResponse(listing=listing)

    async def _beat(self, stream: asyncio.Queue[pb.WorkResponse | None]) -> None:
        while True:
            stream.put_nowait(pb.WorkResponse(heartbeat=self._heartbeat()))
            await asyncio.sleep(HEARTBEAT_S)

    def _heartbeat(self) -> pb.Heartbeat:
        sample = device_pb2.DeviceSample(
            utilization_percent=self.behaviour.utilization_percent,
            memory_used_bytes=self.behaviour.memory_used_bytes,
            memory_total_bytes=MEMORY_BYTES,
            healthy=self.behaviour.healthy,
            unhealthy_reason="" if self.behaviour.healthy else "Xid 79: the device fell off the bus",
        )
        return pb.Heartbeat(
            sample=sample,
            resident_models=self.models if self.behaviour.resident is None else self.behaviour.resident,
            step_costs=self.behaviour.step_costs,
            fixed_costs=self.behaviour.fixed_costs,
            attempts=len(self._live),
            engine_idle=not self._live,
            slowdown=1.0 / (1.0 - self.behaviour.utilization_percent / 100),
            draining=self.behaviour.draining,
            busy_us=self._busy_us,
        )

    async def _take(self, requests: AsyncIterator[pb.WorkRequest]) -> None:
        async for request in requests:
            match request.WhichOneof("message"):
                case "assign":
                    await self._admit(request.assign)
                case "cancel" if not self.behaviour.deaf:
                    self._end(_plain(request.cancel.key))
                case "acknowledge":
                    self.acknowledged.append(_plain(request.acknowledge.key))
                    self._outcomes.pop(_plain(request.acknowledge.key), None)

    async def _admit(self, assign: pb.Assign) -> None:
        self.assigned.append(assign)
        key, prompt = _plain(assign.key), assign.image.prompt
        tokens.verify(self._secret, assign.capability)
        if self.behaviour.dies_over in prompt:
            self._go(self.die())
        elif self.behaviour.fails_over in prompt:
            self._conclude(key, pb.WorkResponse(failed=pb.Failed(key=assign.key)))
        elif self.behaviour.refuses in prompt:
            error = generation_pb2.GenerationError(reason="ADAPTER_INVALID", message="The adapter cannot be used.")
            failed = pb.Failed(key=assign.key, error=error, request_fault=True)
            self._conclude(key, pb.WorkResponse(failed=failed))
        else:
            self._live[key] = self._go(self._denoise(key, assign))
            self.most_aboard = max(self.most_aboard, len(self._live))
            self._say(pb.WorkResponse(accepted=pb.Accepted(key=assign.key)))

    async def _denoise(self, key: _Key, assign: pb.Assign) -> None:
        total = assign.image.steps * max(assign.image.num_images, 1)
        done = resumed = assign.checkpoint.step
        try:
            while done < total or self.behaviour.waits_over in assign.image.prompt:
                await asyncio.sleep(self.behaviour.step_s)
                done += 1
                self._busy_us += results.STEP_US
                progress = pb.Progress(
                    key=assign.key, steps_done=min(done, total), steps_total=total, resumed_step=resumed
                )
                self._say(pb.WorkResponse(progress=progress))
                if self.behaviour.checkpoint_steps and done % self.behaviour.checkpoint_steps == 0:
                    self._checkpoints[key] = results.checkpoint(assign, done)
                    self._say(pb.WorkResponse(checkpoint=self._checkpoints[key]))
        except asyncio.CancelledError:
            self._conclude(key, pb.WorkResponse(cancelled=pb.Cancelled(key=assign.key, usage=results.usage(done))))
            raise
        self._conclude(key, pb.WorkResponse(completed=results.completed(assign)))

    def _end(self, key: _Key) -> None:
        if task := self._live.get(key):
            task.cancel()

    def _conclude(self, key: _Key, outcome: pb.WorkResponse) -> None:
        if self._live.pop(key, None) is not None or not outcome.HasField("cancelled"):
            self._outcomes[key] = outcome
            self._say(outcome)

    def _say(self, message: pb.WorkResponse) -> None:
        if self._stream is not None:
            self._stream.put_nowait(message)

    async def _register(self, scheduler_address: str, interval_s: float) -> None:
        credential = tokens.ServiceCredential(self._secret, "model_runner")
        async with rpc.channel(scheduler_address, credential=credential) as channel:
            stub = fleet_service_pb2_grpc.FleetServiceStub(channel)
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):  # the scheduler may be away; it is called again
                    if not self.behaviour.frozen:
                        await stub.RegisterRunner(self.registration(), timeout=5.0)
                await asyncio.sleep(interval_s)

    def registration(self) -> fleet_service_pb2.RegisterRunnerRequest:
        """What it tells the scheduler of itself."""
        return fleet_service_pb2.RegisterRunnerRequest(
            runner_id=self.runner_id,
            node=self.node,
            address=self.address,
            device=device_pb2.Device(product="Fake 1", uuid=f"fake-{self.node}", memory_bytes=MEMORY_BYTES),
            models=self.models,
            draining=self.behaviour.draining,
        )

    def _go(self, work: Any) -> "asyncio.Task[None]":
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task


def _plain(key: pb.AttemptKey) -> _Key:
    return key.generation_id, key.owner_epoch, key.attempt


def _proto(key: _Key) -> pb.AttemptKey:
    return pb.AttemptKey(generation_id=key[0], owner_epoch=key[1], attempt=key[2])


async def _no_keys(_api_key: str) -> tokens.Principal:
    raise errors.Unauthenticated("a runner knows no API keys")
