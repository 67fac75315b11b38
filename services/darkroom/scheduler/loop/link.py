"""One runner at the other end of a Work stream.

The owner of the pool makes a `Link` for each of its runners. The link dials, dials again when the stream breaks, keeps what heartbeats
tell, and passes everything else to the pool (`Listener`). It judges nothing: `silence_s` grows while nothing is heard, and the
pool decides when that means death.
"""

import asyncio
import dataclasses
import logging
from typing import Any, Protocol

import grpc
from google.protobuf import json_format

from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.scheduler import foreign
from darkroom.scheduler.domain import fleet
from darkroom.scheduler.peers import runner as peer
from darkroom.scheduler.store import fleet as fleet_store

REDIAL_S = 0.2

_log = logging.getLogger(__name__)


class Listener(Protocol):
    """What the pool does with messages; none of these blocks."""

    def joined(self, link: "Link", live: frozenset[fleet.Key]) -> None:
        """The runner is reachable, and these attempts live there; outcomes it kept have been passed on before."""

    def heard(self, link: "Link", message: pb.WorkResponse) -> None:
        """An outcome or progress."""

    def changed(self) -> None:
        """Some link can take work, or no longer."""


@dataclasses.dataclass
class Link:
    """A runner's stream and what is known through it."""

    registration: fleet_store.Registration
    fence: fleet.Fence
    dialler: peer.Dialler
    listener: Listener
    runner_grace_s: float

    stream: int = 0  # how many streams were opened so far
    ready: bool = False  # the present stream has listed and reported
    silence_s: float = 0.0
    quarantine: str = ""
    impostor: bool = False  # another process answers at its address
    share: foreign.Share = foreign.UNKNOWN
    heartbeat: pb.Heartbeat = dataclasses.field(default_factory=pb.Heartbeat)
    step_us: dict[tuple[str, str], int] = dataclasses.field(default_factory=dict)  # what the heartbeat tells of steps
    _outgoing: "asyncio.Queue[pb.WorkRequest] | None" = None
    _listed: frozenset[fleet.Key] | None = None

    @property
    def runner_id(self) -> str:
        """The runner's id."""
        return self.registration.runner_id

    @property
    def draining(self) -> bool:
        """Whether it takes no more work and goes."""
        return self.registration.draining or self.heartbeat.draining

    def send(self, message: pb.WorkRequest) -> None:
        """Send on the present stream; without one the message is dropped, for reconnecting settles what it would have."""
        if self._outgoing is not None:
            self._outgoing.put_nowait(message)

    async def run(self) -> None:
        """Keep a stream open until cancelled."""
        while True:
            try:
                await self._stream_once()
            except grpc.aio.AioRpcError as error:
                _log.info("a work stream ended", extra={"runner_id": self.runner_id, "code": error.code().name})
            finally:
                self._outgoing, self._listed, self.ready = None, None, False
                self.listener.changed()
            await asyncio.sleep(REDIAL_S)

    async def _stream_once(self) -> None:
        self.stream += 1
        self._outgoing = asyncio.Queue()
        self.send(peer.hello(self.fence, runner_grace_s=self.runner_grace_s))
        async with self.dialler.work(self.registration.address, self._outgoing) as responses:
            async for response in responses:
                self.silence_s = 0.0
                self._take(response)

    def _take(self, response: pb.WorkResponse) -> None:
        match response.WhichOneof("message"):
            case "listing":
                self.impostor = response.listing.runner_id != self.runner_id
                self._listed = frozenset(peer.key(key) for key in response.listing.live)
            case "heartbeat":
                self._beat(response.heartbeat)
            case "accepted" | None:
                pass
            case _:
                self.listener.heard(self, response)

    def _beat(self, heartbeat: pb.Heartbeat) -> None:
        sample = heartbeat.sample
        self.heartbeat = heartbeat
        self.step_us = peer.step_costs(heartbeat)
        utilization = sample.utilization_percent if sample.HasField("utilization_percent") else None
        reading = foreign.Reading(utilization, heartbeat.engine_idle, heartbeat.slowdown, heartbeat.busy_us)
        self.share = foreign.update(self.share, reading)
        if heartbeat.HasField("sample") and not sample.healthy and not self.quarantine:
            self.quarantine = sample.unhealthy_reason or "its device is not healthy"
            self.listener.changed()
        if not self.ready and self._listed is not None and not self.impostor:
            self.ready = True
            self.listener.joined(self, self._listed)
            self.listener.changed()

    def view(self) -> fleet.Runner:
        """The runner as placement sees it, with nothing aboard."""
        sample = self.heartbeat.sample
        known = sample.HasField("memory_total_bytes") and sample.HasField("memory_used_bytes")
        return fleet.Runner(
            runner_id=self.runner_id,
            node=self.registration.node,
            models=frozenset(self.registration.models),
            resident=frozenset(self.heartbeat.resident_models),
            memory_total_bytes=sample.memory_total_bytes if known else 0,
            memory_free_bytes=sample.memory_total_bytes - sample.memory_used_bytes if known else 0,
            draining=self.draining,
            quarantine=self.quarantine,
            silent_s=self.silence_s,
            foreign_utilization=self.share.utilization,
            step_us=self.step_us,
        )

    def status(self, attempts: int) -> dict[str, Any]:
        """What every replica may know of it, as JSON."""
        return {
            "heartbeat": json_format.MessageToDict(self.heartbeat, preserving_proto_field_name=True),
            "quarantine": self.quarantine,
            "foreign_utilization": self.share.utilization,
            "attempts": attempts,
        }
