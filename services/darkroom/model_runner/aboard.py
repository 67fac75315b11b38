"""What is aboard: the attempts in hand, the outcomes not yet acknowledged, and the one owner that hears of them.

The servicer puts requests in; `loop.attempt` reports progress and outcomes; what the owner must hear goes into its session's queue.
Who was the owner before, and whose epoch is too low, is decided here. It lives on the event loop and never waits.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from darkroom import errors, ids
from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.model_runner import messages
from darkroom.model_runner.domain import AttemptFailed, AttemptKey

PERISHABLE = {"heartbeat", "progress"}
BEHIND_MAX = 1000  # messages an owner may be behind; then it gets no more of the perishable ones

Queue = asyncio.Queue[pb.WorkResponse | Exception | None]


class Session(NamedTuple):
    """One stream of one owner; an error in its queue ends it with that, None just ends it."""

    grace_s: float
    queue: Queue


class Aboard:
    """The runner's attempts; `begin` starts one and returns what ends it early."""

    def __init__(self, runner_id: str, begin: Callable[[pb.Assign], Callable[[], None]]) -> None:
        self.runner_id = runner_id
        self.draining = False
        self.stirred = asyncio.Event()  # there is somebody new, or something new to say: beat now
        self._begin = begin
        self._live: dict[AttemptKey, Callable[[], None]] = {}
        self._outcomes: dict[AttemptKey, pb.WorkResponse] = {}
        self._checkpoints: dict[AttemptKey, pb.WorkResponse] = {}  # the newest of each attempt aboard
        self._session: Session | None = None
        self._epoch_max = 0
        self._grace: asyncio.TimerHandle | None = None
        self._idle, self._settled = asyncio.Event(), asyncio.Event()
        self._note()

    def __len__(self) -> int:
        return len(self._live)

    @property
    def has_owner(self) -> bool:
        """Whether somebody listens."""
        return self._session is not None

    def open(self, hello: pb.Hello) -> Session:
        """Begin an owner's stream, ending the one before; FailedPrecondition for an owner that was replaced."""
        if hello.owner_epoch < self._epoch_max:
            raise errors.FailedPrecondition(
                "OWNER_REPLACED", f"this runner follows epoch {self._epoch_max}, not {hello.owner_epoch}"
            )
        self._epoch_max = hello.owner_epoch
        if self._session is not None:
            self._session.queue.put_nowait(None)
        if self._grace is not None:
            self._grace.cancel()
        self._session = Session(hello.stream_grace.ToTimedelta().total_seconds(), asyncio.Queue())
        live = [messages.key_to(key) for key in self._live]
        self.tell(pb.WorkResponse(listing=pb.Listing(runner_id=self.runner_id, live=live)))
        for message in (*self._checkpoints.values(), *self._outcomes.values()):
            self.tell(message)
        self.stirred.set()
        return self._session

    def close(self, session: Session) -> None:
        """The stream broke: what is live goes on for the grace, then it is dropped."""
        if session is self._session:
            self._session = None
            self._grace = asyncio.get_running_loop().call_later(session.grace_s, self._drop)

    def take(self, session: Session, request: pb.WorkRequest) -> None:
        """Do what the owner asks; nothing for one that was replaced meanwhile."""
        if session is not self._session:
            return
        match request.WhichOneof("message"):
            case "assign":
                self._assign(request.assign)
            case "cancel":
                self._cancel(messages.key_of(request.cancel.key))
            case "acknowledge":
                self._outcomes.pop(messages.key_of(request.acknowledge.key), None)
                self._note()
            case other:
                raise errors.InvalidArgument.of("message", f"must be assign, cancel or acknowledge, not {other}")

    def tell(self, response: pb.WorkResponse) -> None:
        """Send to the owner, if there is one now; outcomes are kept besides, by `end`."""
        if self._session is None:
            return
        behind = self._session.queue.qsize() >= BEHIND_MAX
        if not (behind and response.WhichOneof("message") in PERISHABLE):
            self._session.queue.put_nowait(response)

    def keep(self, key: AttemptKey, checkpoint: pb.Checkpoint) -> None:
        """Tell where an attempt can be gone on with, and every owner that comes until its outcome is acknowledged.

        Of one that is not aboard any more it is told once, so that the owner has the bytes deleted.
        """
        told = pb.WorkResponse(checkpoint=checkpoint)
        if key in self._live:
            self._checkpoints[key] = told
        self.tell(told)

    def end(self, key: AttemptKey, outcome: pb.WorkResponse) -> None:
        """An attempt ended: tell it, and keep it until the owner has committed it."""
        if self._live.pop(key, None) is not None:
            self._outcomes[key] = outcome
            self.tell(outcome)
            self._note()

    def drain(self) -> None:
        """Take no more attempts."""
        self.draining = True
        self.stirred.set()

    def hand_back(self) -> None:
        """End what is live, as not the request's fault: another runner takes it."""
        for key, stop in list(self._live.items()):
            self.end(key, messages.failed(key, _DRAINING))
            stop()

    def start_anew(self) -> None:
        """Taken for dead: others have the work by now. Drop it, end the stream, and go on as another runner."""
        self._drop()
        self._outcomes.clear()
        self._note()
        self.runner_id = ids.new("run")
        if self._session is not None:
            self._session.queue.put_nowait(None)

    async def idle(self) -> None:
        """Wait until nothing is live."""
        await self._idle.wait()

    async def settled(self) -> None:
        """Wait until nothing is live and every outcome is acknowledged."""
        await self._settled.wait()

    def _assign(self, assign: pb.Assign) -> None:
        key = messages.key_of(assign.key)
        if key in self._outcomes:
            self.tell(self._outcomes[key])
            return
        if self.draining and key not in self._live:
            self.tell(messages.failed(key, _DRAINING))
            return
        if key not in self._live:
            for older in [other for other in self._live if other.generation_id == key.generation_id]:
                self._live.pop(older)()
            self._live[key] = self._begin(assign)
            self._note()
        self.tell(pb.WorkResponse(accepted=pb.Accepted(key=assign.key)))

    def _cancel(self, key: AttemptKey) -> None:
        if key in self._live:
            self._live[key]()
        else:
            self.tell(self._outcomes.get(key) or messages.cancelled(key))

    def _drop(self) -> None:
        """Nobody came back: another runner has this work by now."""
        for stop in list(self._live.values()):
            stop()
        self._live.clear()
        self._note()

    def _note(self) -> None:
        held = self._live.keys() | self._outcomes.keys()
        self._checkpoints = {key: told for key, told in self._checkpoints.items() if key in held}
        for event, is_so in ((self._idle, not self._live), (self._settled, not self._live and not self._outcomes)):
            if is_so:
                event.set()
            else:
                event.clear()


_DRAINING = AttemptFailed("RUNNER_DRAINING", "the runner is shutting down", request_fault=False)
