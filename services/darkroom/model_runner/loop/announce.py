"""Telling that the runner lives: its registration with any scheduler replica, its heartbeats to the owner of its pool.

The device's samples and the engine's snapshot come in; RegisterRunner calls and Heartbeat messages go out. A scheduler that is away is
waited for, and complained of once. A runner that was taken for dead drops what it had and registers as another.
"""

import asyncio
import contextlib
import logging

from darkroom import errors
from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.model_runner import aboard, heartbeat, nvml, peers
from darkroom.model_runner.domain import Identity
from darkroom.model_runner.loop import bridge

TIMEOUT_S_MIN = 1.0

_log = logging.getLogger(__name__)


class EngineDied(Exception):
    """The engine's thread has ended, as when the device is lost: the process must start anew."""


async def register(
    scheduler: peers.Scheduler,
    identity: Identity,
    device: nvml.DeviceIdentity,
    attempts: aboard.Aboard,
    *,
    interval_s: float,
) -> None:
    """Register again and again until cancelled."""
    told, answered = heartbeat.device(device), True
    while True:
        try:
            timeout_s = max(interval_s, TIMEOUT_S_MIN)
            present = identity._replace(runner_id=attempts.runner_id)
            await scheduler.register(present, told, draining=attempts.draining, timeout_s=timeout_s)
            if not answered:
                _log.info("the scheduler answers again")
            answered = True
        except errors.DarkroomError as error:
            if answered:
                _log.warning("the scheduler does not register this runner; trying on", extra={"reason": error.reason})
            answered = False
            if error.reason == "RUNNER_LOST":
                attempts.start_anew()
        await asyncio.sleep(interval_s)


async def beat(engine: bridge.Bridge, sampler: nvml.Sampler, attempts: aboard.Aboard, *, interval_s: float) -> None:
    """Tell the owner how the runner is until cancelled; EngineDied if the engine is no more."""
    while True:
        if not engine.engine.is_alive:
            raise EngineDied("the engine has stopped")
        if attempts.has_owner:
            seen = await asyncio.to_thread(sampler.sample)
            attempts.tell(pb.WorkResponse(heartbeat=_heartbeat(engine, seen, attempts)))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(interval_s):  # wait_for may lose a cancellation before Python 3.12
                await attempts.stirred.wait()
        attempts.stirred.clear()


def _heartbeat(engine: bridge.Bridge, seen: nvml.DeviceSample, attempts: aboard.Aboard) -> pb.Heartbeat:
    return heartbeat.beat(
        seen,
        engine.engine.snapshot(),
        idle=engine.engine.is_idle,
        attempts=len(attempts),
        draining=attempts.draining,
        unbilled_us=engine.unbilled_us,
    )
