"""The runners, as the owner of their pool speaks to them: one `Work` stream each.

`loop.link` opens the stream and hands over what comes back; here are the messages that go out, and what is read of those that come
back: no number in them is taken for granted.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable

from darkroom import ids, pricing, rpc
from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.api.model_runner.v1 import runner_service_pb2_grpc
from darkroom.api.scheduler.v1 import generation_service_pb2
from darkroom.api.types.v1 import money_pb2
from darkroom.scheduler import bucket
from darkroom.scheduler.domain import fleet

COST_US_MAX = 3600 * 1_000_000

_END = pb.WorkRequest()
"""Put last, never sent: a call that the runner ended does not end the task that feeds it."""


class Dialler:
    """Opens streams with this replica's credential."""

    def __init__(self, *, tls: rpc.Tls | None, credential: Callable[[], str]) -> None:
        self._tls = tls
        self._credential = credential

    @contextlib.asynccontextmanager
    async def work(
        self, address: str, outgoing: "asyncio.Queue[pb.WorkRequest]"
    ) -> AsyncIterator[AsyncIterator[pb.WorkResponse]]:
        """Open a Work stream that sends what is put into `outgoing`; a fresh connection, so that no backoff delays it."""
        async with rpc.channel(address, tls=self._tls, credential=self._credential) as channel:
            call = runner_service_pb2_grpc.RunnerServiceStub(channel).Work(_drain(outgoing))
            try:
                yield call  # type: ignore[misc]  # the async stub's type is not generated
            finally:
                call.cancel()
                outgoing.put_nowait(_END)


async def _drain(outgoing: "asyncio.Queue[pb.WorkRequest]") -> AsyncIterator[pb.WorkRequest]:
    while (request := await outgoing.get()) is not _END:
        yield request


def hello(fence: fleet.Fence, *, runner_grace_s: float) -> pb.WorkRequest:
    """Introduce the owner."""
    message = pb.Hello(pool=fence.pool, owner_id=fence.owner_id, owner_epoch=fence.epoch)
    message.stream_grace.FromNanoseconds(round(runner_grace_s * 1e9))
    return pb.WorkRequest(hello=message)


def assign(begun: fleet.Begun, *, capability: str) -> pb.WorkRequest:
    """Begin an attempt; the input is the accepted one."""
    attempt = begun.attempt
    accepted = generation_service_pb2.CreateGenerationRequest.FromString(begun.input)
    message = pb.Assign(
        key=_key(attempt.key),
        tenant_id=attempt.tenant_id,
        model=attempt.model,
        model_revision=begun.model_revision,
        priority=begun.attempt.priority,  # type: ignore[arg-type]  # the proto's numbers
        capability=capability,
        solo=attempt.solo,
    )
    kind = accepted.WhichOneof("input")
    if kind is not None:
        getattr(message, kind).CopyFrom(getattr(accepted, kind))
    if begun.deadline is not None:
        message.deadline.FromDatetime(begun.deadline)
    if begun.checkpoint is not None:
        message.checkpoint.CopyFrom(_checkpoint(begun.checkpoint))
    return pb.WorkRequest(assign=message)


def cancel(key: fleet.Key) -> pb.WorkRequest:
    """End an attempt within a step."""
    return pb.WorkRequest(cancel=pb.Cancel(key=_key(key)))


def acknowledge(key: fleet.Key) -> pb.WorkRequest:
    """Let the runner forget an attempt."""
    return pb.WorkRequest(acknowledge=pb.Acknowledge(key=_key(key)))


def key(message: pb.AttemptKey) -> fleet.Key:
    """Read a fencing token."""
    return fleet.Key(message.generation_id, message.owner_epoch, message.attempt)


def checkpoint(message: pb.Checkpoint) -> fleet.Checkpoint | None:
    """Read where an attempt can be gone on with; None if the runner names no place, or one that cannot be."""
    try:
        ids.check(message.media_id, "med")
    except ValueError:
        return None
    used = dataclasses.asdict(usage(message.usage))
    return fleet.Checkpoint(key(message.key), message.media_id, max(message.step, 0), used)


def usage(message: money_pb2.Usage) -> pricing.Quantities:
    """Read what an attempt used; a runner that reports less than nothing used nothing."""
    return pricing.Quantities(
        gpu_time_us=max(message.gpu_time_us, 0),
        steps=max(message.steps, 0),
        images=max(message.images, 0),
        pixels=max(message.pixels, 0),
        media_duration_us=max(message.media_duration_us, 0),
        training_steps=max(message.training_steps, 0),
        cached_steps=max(message.cached_steps, 0),
    )


def step_costs(heartbeat: pb.Heartbeat) -> dict[tuple[str, str], int]:
    """Read what one row's step costs by model and bucket, from the smallest batch measured of each."""
    fewest: dict[tuple[str, str], pb.StepCost] = {}
    for cost in heartbeat.step_costs:
        key = cost.model, bucket.name(cost.shape, guided=cost.guided)
        known = fewest.get(key)
        if cost.rows > 0 and (known is None or cost.rows < known.rows):
            fewest[key] = cost
    return {key: min(max(cost.step_us // cost.rows, 1), COST_US_MAX) for key, cost in fewest.items()}


def fixed_costs(heartbeat: pb.Heartbeat) -> dict[tuple[str, str], fleet.FixedCost]:
    """Read what a generation takes besides its steps, by model and size."""
    return {
        (cost.model, cost.shape): fleet.FixedCost(
            *(min(max(us, 0), COST_US_MAX) for us in (cost.prepare_us, cost.decode_us, cost.encode_us))
        )
        for cost in heartbeat.fixed_costs
    }


def _checkpoint(value: fleet.Checkpoint) -> pb.Checkpoint:
    used = money_pb2.Usage(**value.usage)
    return pb.Checkpoint(key=_key(value.key), media_id=value.media_id, step=value.step, usage=used)


def _key(value: fleet.Key) -> pb.AttemptKey:
    return pb.AttemptKey(generation_id=value.generation_id, owner_epoch=value.owner_epoch, attempt=value.attempt)
