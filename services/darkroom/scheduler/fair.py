"""Who goes first.

Waiting jobs come in; they go out one by one in this order: the class, raised by one for each `ageing_s` of waiting; inside a class
the tenant that has had least of the accelerators lately (start-time fair queueing over predicted GPU time, so that an idle tenant
saves up nothing); inside a tenant the earliest deadline, then the oldest. `schedule` asks for the next and says what it placed.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from darkroom.scheduler.domain import fleet

FIRST_CLASS = 1


class Turn(NamedTuple):
    """A job whose turn it is, and the class and virtual time at which it starts."""

    job: fleet.Job
    level: int
    start: float


def level(job: fleet.Job, *, ageing_s: float) -> int:
    """The class that the job has by now: its own, less one for each `ageing_s` it waited."""
    return max(FIRST_CLASS, job.priority - int(job.waited_s / ageing_s))


class Shares:
    """How much of the accelerators each tenant has had, in virtual microseconds; lives as long as an ownership."""

    def __init__(self) -> None:
        self._now: dict[int, float] = defaultdict(float)
        self._finish: dict[tuple[int, str], float] = {}

    def start(self, at_level: int, tenant_id: str) -> float:
        """The virtual time at which the tenant's next job of this class starts."""
        return max(self._now[at_level], self._finish.get((at_level, tenant_id), 0.0))

    def charge(self, turn: Turn) -> None:
        """The job of this turn was placed: its tenant's next one starts later by its work."""
        self._now[turn.level] = max(self._now[turn.level], turn.start)
        self._finish[turn.level, turn.job.tenant_id] = turn.start + max(turn.job.work_us, 1)
        self._forget(turn.level)

    def _forget(self, at_level: int) -> None:
        """Drop tenants that would start at once anyway, so that the table holds only who is ahead."""
        if len(self._finish) > 10_000:
            now = self._now[at_level]
            self._finish = {key: end for key, end in self._finish.items() if key[0] != at_level or end > now}


class Queue:
    """The waiting jobs of one pass, in fair order."""

    def __init__(self, jobs: Iterable[fleet.Job], shares: Shares, *, ageing_s: float) -> None:
        self._shares = shares
        self._lines: dict[tuple[int, str], list[fleet.Job]] = defaultdict(list)
        for job in jobs:
            self._lines[level(job, ageing_s=ageing_s), job.tenant_id].append(job)
        self._heads: list[tuple[int, float, tuple[float, float, str], str]] = []
        for (at_level, tenant_id), line in self._lines.items():
            line.sort(key=_urgency, reverse=True)
            self._push(at_level, tenant_id)

    def next(self) -> Turn | None:
        """Take the job whose turn it is; None at the end. Charge the shares before the next call if it was placed."""
        while self._heads:
            at_level, start, _, tenant_id = heapq.heappop(self._heads)
            now = self._shares.start(at_level, tenant_id)
            if now > start:  # it was charged since it got in line
                self._push(at_level, tenant_id)
                continue
            job = self._lines[at_level, tenant_id].pop()
            self._push(at_level, tenant_id)
            return Turn(job, at_level, start)
        return None

    def _push(self, at_level: int, tenant_id: str) -> None:
        if line := self._lines[at_level, tenant_id]:
            start = self._shares.start(at_level, tenant_id)
            heapq.heappush(self._heads, (at_level, start, _urgency(line[-1]), tenant_id))


def _urgency(job: fleet.Job) -> tuple[float, float, str]:
    return (float("inf") if job.deadline_s is None else job.deadline_s, -job.waited_s, job.generation_id)
