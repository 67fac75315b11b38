"""The life of one attempt: fetch its adapters and where it left off, have the engine make its media, hand that to media_store, report.

An `Assign` comes in from `aboard`; progress, checkpoints (by `keep`) and exactly one outcome go back to it. Whatever waits here waits on
the event loop.
"""

import asyncio
import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from darkroom import catalog, clock, errors
from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.model_runner import aboard, messages, peers
from darkroom.model_runner.domain import AttemptFailed
from darkroom.model_runner.engine import errors as engine_errors
from darkroom.model_runner.engine import job as engine_job
from darkroom.model_runner.loop import bridge, keep, sources

_log = logging.getLogger(__name__)


class Ports(NamedTuple):
    """What an attempt needs of the world."""

    bridge: bridge.Bridge
    adapters: peers.Adapters
    media: peers.Media
    catalog: Mapping[str, catalog.ModelEntry]


class Habits(NamedTuple):
    """How attempts are run."""

    progress_interval_s: float
    checkpoint_retention_s: float


class Attempts:
    """Runs what `aboard` takes; leave its context to end it all."""

    def __init__(self, runner_id: str, ports: Ports, habits: Habits) -> None:
        self.aboard = aboard.Aboard(runner_id, self._begin)
        self._ports = ports
        self._habits = habits
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Stop all; nothing more is reported."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, assign: pb.Assign) -> Callable[[], None]:
        attempt = _Attempt(assign, self._ports, self.aboard, self._habits)
        task = asyncio.create_task(attempt.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return attempt.cancel


class _Fetched(NamedTuple):
    adapters: list[engine_job.AdapterUse]
    pictures: sources.Pictures
    checkpoint: bytes | None


class _Attempt:
    """One attempt; its methods run on the event loop."""

    def __init__(self, assign: pb.Assign, ports: Ports, reports: aboard.Aboard, habits: Habits) -> None:
        self._key = messages.key_of(assign.key)
        self._assign = assign
        self._ports = ports
        self._reports = reports
        self._progress_interval_s = habits.progress_interval_s
        self._keeper = keep.Keeper(assign, ports.media, reports, retention_s=habits.checkpoint_retention_s)
        self._resumed_step = 0
        self._told_s = -math.inf
        self._cancelled = False
        self._fetching: asyncio.Task[_Fetched] | None = None

    def cancel(self) -> None:
        """End within a step; an attempt whose picture is made already is stored and reported all the same."""
        self._cancelled = True
        if self._fetching is not None:
            self._fetching.cancel()
        self._ports.bridge.engine.cancel(self._key.job_key)

    async def run(self) -> None:
        """Live; the outcome is told through `aboard`, whatever happens."""
        try:
            self._reports.end(self._key, await self._outcome())
            await self._keeper.settle()
        finally:
            await self._keeper.close()

    async def _outcome(self) -> pb.WorkResponse:
        try:
            async with contextlib.AsyncExitStack() as held:
                return await self._live(held)
        except AttemptFailed as error:
            return messages.failed(self._key, error)
        except Exception as error:  # told as the runner's fault: an attempt always ends
            _log.exception("an attempt failed", extra={"generation_id": self._key.generation_id})
            failure = AttemptFailed("RUNNER_FAULT", f"the runner failed ({type(error).__name__})", request_fault=False)
            return messages.failed(self._key, failure)

    async def _live(self, held: contextlib.AsyncExitStack) -> pb.WorkResponse:
        entry = messages.check(self._assign, self._ports.catalog.get(self._assign.model))
        started_us = clock.monotonic_us()
        self._fetching = asyncio.create_task(self._fetch(held))
        if self._cancelled:
            self._fetching.cancel()
        try:
            fetched = await self._fetching
        except asyncio.CancelledError:
            if not self._cancelled:
                raise
        if self._cancelled:  # perhaps after everything was fetched, but before the engine heard of it
            return messages.cancelled(self._key)
        fetch_us = clock.monotonic_us() - started_us
        job = messages.job(self._assign, entry, fetched.adapters)
        files = {"checkpoint": fetched.checkpoint, **fetched.pictures._asdict()}
        end = await self._make(dataclasses.replace(job, **files))
        if isinstance(end, engine_job.Finished):
            return await self._store(end, fetch_us=fetch_us)
        used = messages.usage(end.usage)
        if isinstance(end, engine_job.Cancelled):
            return messages.cancelled(self._key, used)
        if isinstance(end, engine_job.Suspended):
            checkpoint = None if end.data is None else await self._keeper.put(end.data, end.usage)
            return messages.suspended(self._key, checkpoint)
        failure = AttemptFailed(end.code, end.message, request_fault=end.fault == "request")
        return messages.failed(self._key, failure, used)

    async def _fetch(self, held: contextlib.AsyncExitStack) -> _Fetched:
        pictures = await sources.read(messages.media(self._assign), self._ports.media, self._assign.capability)
        return _Fetched(await self._fetch_adapters(held), pictures, await self._keeper.read())

    async def _fetch_adapters(self, held: contextlib.AsyncExitStack) -> list[engine_job.AdapterUse]:
        """The files of its adapters, which stay where they are while `held` lasts."""
        tenant_id, capability = self._assign.tenant_id, self._assign.capability
        uses = []
        for adapter in messages.media(self._assign).adapters:
            try:
                lease = self._ports.adapters.lease(tenant_id, adapter.adapter_id, capability)
                file = await held.enter_async_context(lease)
            except (errors.NotFound, errors.InvalidArgument) as error:
                raise AttemptFailed("ADAPTER_NOT_FOUND", str(error), request_fault=True) from error
            except errors.DarkroomError as error:
                raise AttemptFailed("ADAPTER_FETCH_FAILED", str(error), request_fault=False) from error
            uses.append(engine_job.AdapterUse(path=file.path, digest=file.sha256, scale=messages.scale_of(adapter)))
        return uses

    async def _make(self, job: engine_job.Job) -> bridge.End:
        try:
            return await self._ports.bridge.make(job, self._hear)
        except engine_errors.Closing as error:
            raise AttemptFailed(error.code, str(error), request_fault=False) from error

    async def _store(self, finished: engine_job.Finished, *, fetch_us: int) -> pb.WorkResponse:
        started_us, used = clock.monotonic_us(), messages.usage(finished.usage)
        try:
            artifacts = [await self._ports.media.put(output, self._assign.capability) for output in finished.outputs]
        except errors.DarkroomError as error:
            failure = AttemptFailed("MEDIA_STORE_FAILED", str(error), request_fault=False)
            return messages.failed(self._key, failure, used)
        stages = messages.stages(finished.stages, fetch_us=fetch_us, store_us=clock.monotonic_us() - started_us)
        return pb.WorkResponse(
            completed=pb.Completed(
                key=self._assign.key,
                artifacts=artifacts,
                usage=used,
                stages=stages,
                resumed_step=self._resumed_step,
            )
        )

    def _hear(self, event: bridge.News) -> None:
        if isinstance(event, engine_job.Progressed):
            self._progress(event)
        elif isinstance(event, engine_job.Checkpointed):
            self._keeper.offer(event)
        else:
            self._resumed_step = event.resumed_step

    def _progress(self, event: engine_job.Progressed) -> None:
        """Tell how far it is, unless that was told a moment ago."""
        now_s = time.monotonic()
        if now_s - self._told_s < self._progress_interval_s:
            return
        self._told_s = now_s
        progress = pb.Progress(
            key=self._assign.key,
            steps_done=event.steps_done,
            steps_total=event.steps_total,
            remaining_us=event.remaining_us,
            resumed_step=self._resumed_step,
        )
        self._reports.tell(pb.WorkResponse(progress=progress))
