"""How much of a device other processes use.

Heartbeat facts come in; a share in 0..1 goes out to `predict`. While the runner's engine is idle, NVML's utilization is theirs
alone; while it works, the slowdown of its steps against their own table tells. Subtracting the one from the other would not do: at
saturation NVML shows 100 % whoever is to blame.
"""

from typing import NamedTuple

SMOOTHING = 0.5  # weight of a new reading while the engine works, whose slowdown jitters
FORGOTTEN = 0.02  # at each idle heartbeat where NVML tells nothing: half in 17 s, so that the runner is tried again


class Reading(NamedTuple):
    """What one heartbeat says: NVML's percent (None: not supported), engine idle or its steps' slowdown, busy time."""

    utilization_percent: int | None
    engine_idle: bool
    slowdown: float
    busy_us: int


class Share(NamedTuple):
    """The present judgement and the busy time at which the engine was last seen idle (None: it was working)."""

    utilization: float
    idle_at_busy_us: int | None


UNKNOWN = Share(0.0, 0)


def update(before: Share, reading: Reading) -> Share:
    """Judge anew.

    NVML averages over up to a second, so a reading counts only if the engine was idle at the heartbeat before too and has done
    nothing since.
    """
    if not reading.engine_idle:
        seen = 1.0 - 1.0 / max(reading.slowdown, 1.0)
        return Share(before.utilization + SMOOTHING * (seen - before.utilization), None)
    if reading.utilization_percent is None:
        return Share(before.utilization * (1.0 - FORGOTTEN), reading.busy_us)
    if before.idle_at_busy_us == reading.busy_us:
        return Share(min(max(reading.utilization_percent / 100, 0.0), 1.0), reading.busy_us)
    return Share(before.utilization, reading.busy_us)
