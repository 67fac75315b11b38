"""The life of one attempt: fetch its adapters, have the engine make its media, hand that to media_store, report.

An `Assign` comes in from `aboard`; progress and exactly one outcome go back to it. The engine's events arrive from its own thread
through `Desk.on_event`; whatever waits here waits on the event loop.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from darkroom import catalog, errors
from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.model_runner import aboard, messages, peers
from darkroom.model_runner.domain import AttemptFailed, AttemptKey
from darkroom.model_runner.engine import engine as engine_thread
from darkroom.model_runner.engine import job as engine_job
from darkroom.model_runner.engine.errors import Closing

_log = logging.getLogger(__name__)


class Ports(NamedTuple):
    """What an attempt needs of the world."""

    engine: engine_thread.Engine
    adapters: peers.Adapters
    media: peers.Media
    catalog: Mapping[str, catalog.ModelEntry]


class Desk:
    """Runs attempts; `connect` it to its ports before the first."""

    def __init__(self, runner_id: str, *, progress_interval_s: float) -> None:
        self.aboard = aboard.Aboard(runner_id, self._begin)
        self._progress_interval_s = progress_interval_s
        self._loop = asyncio.get_running_loop()
        self._running: dict[str, _Attempt] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ports: Ports | None = None

    def connect(self, ports: Ports) -> None:
        """Give it what attempts need; the engine was made with this desk's `on_event`."""
        self._ports = ports

    def on_event(self, event: engine_job.Event) -> None:
        """Take an event from the engine's thread."""
        self._loop.call_soon_threadsafe(self._dispatch, event)

    def hand_back(self) -> None:
        """End what is left, as not the request's fault: another runner takes it."""
        for attempt in list(self._running.values()):
            attempt.hand_back()

    def _dispatch(self, event: engine_job.Event) -> None:
        if attempt := self._running.get(event.job_key):
            attempt.hear(event)

    def _begin(self, assign: pb.Assign) -> Callable[[], None]:
        assert self._ports is not None
        attempt = _Attempt(assign, self._ports, self.aboard, self._progress_interval_s)
        self._running[attempt.key.job_key] = attempt
        task = asyncio.create_task(attempt.run())
        self._tasks.add(task)
        task.add_done_callback(lambda _: self._forget(attempt, task))
        return attempt.cancel

    def _forget(self, attempt: "_Attempt", task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._running.get(attempt.key.job_key) is attempt:
            del self._running[attempt.key.job_key]


class _Attempt:
    """One attempt; its methods run on the event loop."""

    def __init__(self, assign: pb.Assign, ports: Ports, reports: aboard.Aboard, progress_interval_s: float) -> None:
        self.key: AttemptKey = messages.key_of(assign.key)
        self._assign = assign
        self._ports = ports
        self._reports = reports
        self._progress_interval_s = progress_interval_s
        self._told_s = 0.0
        self._cancel_asked = False
        self._end: asyncio.Future[engine_job.Finished | engine_job.Failed | engine_job.Cancelled] = (
            asyncio.get_running_loop().create_future()
        )

    def hear(self, event: engine_job.Event) -> None:
        """Take one of the engine's events."""
        if isinstance(event, engine_job.Progressed):
            self._progress(event)
        elif not isinstance(event, engine_job.Started) and not self._end.done():
            self._end.set_result(event)

    def cancel(self) -> None:
        """End within a step; an attempt whose picture is made already is stored and reported all the same."""
        self._cancel_asked = True
        self._ports.engine.cancel(self.key.job_key)

    def hand_back(self) -> None:
        """Report a failure that is not the request's fault, and stop."""
        draining = AttemptFailed("RUNNER_DRAINING", "the runner is shutting down", request_fault=False)
        self._reports.end(self.key, messages.failed(self.key, draining))
        self.cancel()

    async def run(self) -> None:
        """Live; the outcome is told through `aboard`, whatever happens."""
        try:
            outcome = await self._live()
        except AttemptFailed as error:
            outcome = messages.failed(self.key, error)
        except Exception as error:
            _log.exception("an attempt failed", extra={"generation_id": self.key.generation_id})
            failure = AttemptFailed("RUNNER_FAULT", f"the runner failed ({type(error).__name__})", request_fault=False)
            outcome = messages.failed(self.key, failure)
        self._reports.end(self.key, outcome)

    async def _live(self) -> pb.WorkResponse:
        entry = messages.check(self._assign, self._ports.catalog.get(self._assign.model))
        started_us = _now_us()
        adapters = await self._fetch()
        fetch_us = _now_us() - started_us
        if self._cancel_asked:
            return messages.cancelled(self.key)
        try:
            self._ports.engine.submit(messages.job(self._assign, entry, adapters))
        except Closing as error:
            raise AttemptFailed(error.code, str(error), request_fault=False) from error
        event = await self._end
        if isinstance(event, engine_job.Cancelled):
            return messages.cancelled(self.key, messages.usage(event.usage))
        if isinstance(event, engine_job.Failed):
            failure = AttemptFailed(event.code, event.message, request_fault=event.fault == "request")
            return messages.failed(self.key, failure, messages.usage(event.usage))
        return await self._store(event, fetch_us=fetch_us)

    async def _fetch(self) -> list[engine_job.AdapterUse]:
        """The files of its adapters; AttemptFailed if one is gone (the request's fault) or the store is away."""
        try:
            fetched = [
                await self._ports.adapters.fetch(self._assign.tenant_id, adapter.adapter_id, self._assign.capability)
                for adapter in self._assign.image.adapters
            ]
        except errors.DarkroomError as error:
            reason = "ADAPTER_NOT_FOUND" if isinstance(error, errors.NotFound) else "ADAPTER_FETCH_FAILED"
            raise AttemptFailed(reason, str(error), request_fault=isinstance(error, errors.NotFound)) from error
        uses = zip(fetched, self._assign.image.adapters, strict=True)
        return [engine_job.AdapterUse(file.path, file.sha256, messages.scale_of(adapter)) for file, adapter in uses]

    async def _store(self, finished: engine_job.Finished, *, fetch_us: int) -> pb.WorkResponse:
        started_us = _now_us()
        try:
            artifacts = [await self._ports.media.put(output, self._assign.capability) for output in finished.outputs]
        except errors.DarkroomError as error:
            raise AttemptFailed("MEDIA_STORE_FAILED", str(error), request_fault=False) from error
        stages = messages.stages(finished.stages, fetch_us=fetch_us, store_us=_now_us() - started_us)
        return pb.WorkResponse(
            completed=pb.Completed(
                key=self._assign.key, artifacts=artifacts, usage=messages.usage(finished.usage), stages=stages
            )
        )

    def _progress(self, event: engine_job.Progressed) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s < self._progress_interval_s:
            return
        self._told_s = now_s
        self._reports.tell(
            pb.WorkResponse(
                progress=pb.Progress(
                    key=self._assign.key,
                    steps_done=event.steps_done,
                    steps_total=event.steps_total,
                    remaining_us=event.remaining_us,
                )
            )
        )


def _now_us() -> int:
    return time.monotonic_ns() // 1000
