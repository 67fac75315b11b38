"""One placement pass over a pool.

The waiting jobs and the runners come in; the placements to commit go out. Each decision counts at once for the next ones: the
runner it chose has one more aboard and a longer backlog, so nothing herds onto the runner that looked best before.
"""

import dataclasses
from collections.abc import Iterable

from darkroom.scheduler import fair, place, predict
from darkroom.scheduler.domain import fleet


def plan(
    jobs: Iterable[fleet.Job],
    runners: Iterable[fleet.Runner],
    shares: fair.Shares,
    rules: place.Rules,
    *,
    ageing_s: float,
) -> list[fleet.Placement]:
    """Place what can be placed now, in fair order.

    Shapes of one model differ in nothing that a filter looks at, so one refused job of a model stands for all of them; suspects
    are each looked at, and a suspect that finds no empty runner keeps the least busy one from getting more.
    """
    fleet_now = {runner.runner_id: runner for runner in runners}
    queue = fair.Queue(jobs, shares, ageing_s=ageing_s)
    refused: set[str] = set()
    placements = []
    while turn := queue.next():
        if turn.job.model in refused and not turn.job.suspect:
            continue
        decision = place.place(turn.job, fleet_now.values(), rules)
        if decision.runner_id:
            fleet_now[decision.runner_id] = reserve(turn.job, fleet_now[decision.runner_id])
            shares.charge(turn)
            placements.append(fleet.Placement(turn.job, decision))
        elif turn.job.suspect:
            _hold_one(turn.job, fleet_now)
        else:
            refused.add(turn.job.model)
    return placements


def reserve(job: fleet.Job, runner: fleet.Runner) -> fleet.Runner:
    """The runner with the job aboard."""
    backlog_us = dict(runner.backlog_us)
    backlog_us[job.priority] = backlog_us.get(job.priority, 0) + predict.work_us(job, runner)
    return dataclasses.replace(
        runner,
        attempts=runner.attempts + 1,
        backlog_us=backlog_us,
        has_solo=runner.has_solo or job.suspect,
        loading_us=runner.loading_us + predict.load_us(job, runner),
        resident=runner.resident | {job.model},
    )


def _hold_one(job: fleet.Job, fleet_now: dict[str, fleet.Runner]) -> None:
    usable = [
        runner
        for runner in fleet_now.values()
        if job.model in runner.models and not (runner.has_solo or runner.draining or runner.quarantine)
    ]
    if usable:
        held = min(usable, key=lambda runner: (runner.attempts, sum(runner.backlog_us.values()), runner.runner_id))
        fleet_now[held.runner_id] = dataclasses.replace(held, has_solo=True)
