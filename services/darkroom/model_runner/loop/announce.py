"""Telling that the runner lives: its registration with any scheduler replica, its heartbeats to the owner of its pool.

The device's samples and the engine's snapshot come in; RegisterRunner calls and Heartbeat messages go out. A scheduler that is away is
waited for, and complained of once.
"""

import asyncio
import logging
from typing import NamedTuple

from darkroom import errors
from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.model_runner import aboard, messages, nvml, peers
from darkroom.model_runner.engine import engine as engine_thread

_log = logging.getLogger(__name__)


class EngineDied(Exception):
    """The engine's thread has ended, as when the device is lost: the process must start anew."""


class Identity(NamedTuple):
    """What a runner tells of itself at registration."""

    runner_id: str
    node: str
    address: str
    models: tuple[str, ...]


async def register(
    scheduler: peers.Scheduler, identity: Identity, sampler: nvml.Sampler, attempts: aboard.Aboard, *, interval_s: float
) -> None:
    """Register again and again until cancelled."""
    answered = True
    while True:
        try:
            await scheduler.register(
                identity, messages.device(sampler.identity), draining=attempts.draining, timeout_s=max(interval_s, 1.0)
            )
            if not answered:
                _log.info("the scheduler answers again")
            answered = True
        except errors.DarkroomError as error:
            if answered:
                _log.warning("the scheduler does not register this runner (%s); trying on", error.reason)
            answered = False
        await asyncio.sleep(interval_s)


async def beat(
    engine: engine_thread.Engine, sampler: nvml.Sampler, attempts: aboard.Aboard, *, interval_s: float
) -> None:
    """Tell the owner how the runner is until cancelled; EngineDied if the engine is no more."""
    while True:
        if not engine.is_alive:
            raise EngineDied("the engine has stopped")
        if attempts.has_owner:
            seen = await asyncio.to_thread(sampler.sample)
            message = messages.heartbeat(
                seen, engine.snapshot(), idle=engine.is_idle, attempts=len(attempts), draining=attempts.draining
            )
            attempts.tell(pb.WorkResponse(heartbeat=message))
        await asyncio.sleep(interval_s)
