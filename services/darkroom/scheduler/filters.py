"""Which runners cannot have a job, and why.

A job and a runner come in; the first reason that forbids it goes out, or none. `place` counts the reasons.
"""

from collections.abc import Callable
from typing import NamedTuple

from darkroom.scheduler.domain import fleet

STALE = "stale"


class Limits(NamedTuple):
    """From the configuration."""

    heartbeat_stale_s: float
    runner_attempts_max: int


def reason(job: fleet.Job, runner: fleet.Runner, limits: Limits) -> str:
    """Name the first filter that refuses the runner; empty if it may have the job."""
    return next((name for name, refuses in FILTERS if refuses(job, runner, limits)), "")


def _cannot_load(job: fleet.Job, runner: fleet.Runner, limits: Limits) -> bool:
    return job.model not in runner.models


def _lacks_memory(job: fleet.Job, runner: fleet.Runner, limits: Limits) -> bool:
    if job.model in runner.resident or not runner.memory_total_bytes:
        return False
    return job.model_memory_bytes > runner.memory_free_bytes


def _must_be_alone(job: fleet.Job, runner: fleet.Runner, limits: Limits) -> bool:
    return runner.has_solo or (job.suspect and runner.attempts > 0)


FILTERS: tuple[tuple[str, Callable[[fleet.Job, fleet.Runner, Limits], bool]], ...] = (
    ("draining", lambda job, runner, limits: runner.draining),
    ("quarantined", lambda job, runner, limits: bool(runner.quarantine)),
    ("model_not_loadable", _cannot_load),
    ("out_of_memory", _lacks_memory),
    ("solo", _must_be_alone),
    ("full", lambda job, runner, limits: runner.attempts >= limits.runner_attempts_max),
    (STALE, lambda job, runner, limits: runner.silent_s > limits.heartbeat_stale_s),
)
