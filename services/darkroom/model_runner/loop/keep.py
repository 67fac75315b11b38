"""Keeps an attempt's checkpoints outside the runner: as its tenant's media, for a while, told to the owner but not to the tenant.

State files come in from `attempt` as the engine makes them; they are put into media_store one at a time, the newest first, and what is
stored is told through `aboard`. A store that is away costs a checkpoint, never the attempt.
"""

import asyncio
import logging

from darkroom import errors
from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.model_runner import aboard, messages, peers
from darkroom.model_runner.engine import job as engine_job

_log = logging.getLogger(__name__)


class Keeper:
    """Of one attempt; belongs to the event loop."""

    def __init__(self, assign: pb.Assign, media: peers.Media, reports: aboard.Aboard, *, retention_s: float) -> None:
        self._assign = assign
        self._media = media
        self._reports = reports
        self._retention_s = retention_s
        self._newest: engine_job.Checkpointed | None = None
        self._storing: asyncio.Task[None] | None = None

    def offer(self, event: engine_job.Checkpointed) -> None:
        """Store this one when the one before is stored, unless a newer one is there by then."""
        self._newest = event
        if self._storing is None or self._storing.done():
            self._storing = asyncio.create_task(self._store())

    async def put(self, data: bytes, usage: engine_job.Usage) -> pb.Checkpoint | None:
        """Store a state file; None if media_store does not take it."""
        try:
            media_id = await self._media.keep(data, self._assign.capability, retention_s=self._retention_s)
        except errors.DarkroomError as error:
            _log.warning("a checkpoint was not stored", extra={"reason": error.reason})
            return None
        return pb.Checkpoint(key=self._assign.key, media_id=media_id, step=usage.steps, usage=messages.usage(usage))

    async def read(self) -> bytes | None:
        """The state file that the attempt goes on from; None if there is none, or it cannot be had."""
        if not self._assign.HasField("checkpoint"):
            return None
        try:
            return await self._media.read(self._assign.checkpoint.media_id, self._assign.capability)
        except errors.DarkroomError as error:
            _log.warning("a checkpoint cannot be read: starting anew", extra={"reason": error.reason})
            return None

    async def settle(self) -> None:
        """Begin to store no more; what is under way is told, although its attempt has ended, so that the owner has it deleted."""
        self._newest = None
        if self._storing is not None:
            await asyncio.wait([self._storing])

    async def close(self) -> None:
        """Store no more, at once."""
        if self._storing is not None:
            self._storing.cancel()
            await asyncio.gather(self._storing, return_exceptions=True)

    async def _store(self) -> None:
        while (event := self._newest) is not None:
            self._newest = None
            if checkpoint := await self.put(event.data, event.usage):
                self._reports.keep(messages.key_of(self._assign.key), checkpoint)
