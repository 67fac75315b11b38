"""What admission may expect of the fleet, on any replica.

The owners of pools publish what their runners tell; every replica reads it back here about once a second. Servicers ask, without
waiting: what a step costs, how much work waits, when a job would be done, how many runners there are.
"""

import asyncio
import dataclasses
import functools
import itertools
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from google.protobuf import json_format

from darkroom import catalog, errors, postgres
from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.scheduler import predict
from darkroom.scheduler.config import Config
from darkroom.scheduler.domain import fleet
from darkroom.scheduler.peers import runner as peer
from darkroom.scheduler.store import fleet as fleet_store

REFRESH_S = 1.0

_log = logging.getLogger(__name__)


class Forecast:
    """The last reading; empty until `run` has read once, and kept while the database is away."""

    def __init__(self, database: postgres.Database, config: Config, models: Mapping[str, catalog.ModelEntry]) -> None:
        self._fleet = fleet_store.Fleet(database)
        self._seen_within_s = config.runner_lease_s
        self._load_us = {name: round(entry.load_s_guess * 1e6) for name, entry in models.items()}
        self._accelerators: dict[str, dict[str, fleet.Accelerator]] = {}
        self._runners: dict[str, list[fleet.Runner]] = {}

    async def run(self) -> None:
        """Read again and again until cancelled."""
        while True:
            try:
                await self.refresh()
            except errors.DarkroomError as error:
                _log.info("the fleet cannot be read now", extra={"reason": error.reason})
            await asyncio.sleep(REFRESH_S)

    async def refresh(self) -> None:
        """Read once."""
        runners: dict[str, fleet.Runner] = {}
        accelerators: dict[str, dict[str, fleet.Accelerator]] = defaultdict(dict)
        for row in await self._fleet.live(seen_within_s=self._seen_within_s):
            heartbeat = json_format.ParseDict(
                row.status.get("heartbeat", {}), pb.Heartbeat(), ignore_unknown_fields=True
            )
            product = row.registration.device.get("product", "")
            runners[row.registration.runner_id] = _runner(row, heartbeat)
            for model in row.registration.models:
                told = _measured(product, heartbeat, model)
                accelerators[model][product] = _slower(told, accelerators[model].get(product, told))
        aboard: dict[str, list[fleet.Load]] = defaultdict(list)
        for load in await self._fleet.loads():
            aboard[load.runner_id].append(load)
        laden = {one: predict.laden(runner, aboard[one], self._load_us) for one, runner in runners.items()}
        _pour(aboard[""], laden)
        self._runners = {model: [one for one in laden.values() if model in one.models] for model in accelerators}
        self._accelerators = dict(accelerators)

    def slowest(self, model: str) -> fleet.Accelerator:
        """What was measured of the model, each number on the slowest runner that measured it."""
        return functools.reduce(_slower, self.accelerators(model), fleet.Accelerator("", False, {}, {}))

    def accelerators(self, model: str) -> list[fleet.Accelerator]:
        """The kinds of accelerators whose runners take work for the model."""
        return list(self._accelerators.get(model, {}).values())

    def runners(self, model: str) -> int:
        """Runners that take work for the model."""
        return len(self._runners.get(model, ()))

    def wait_us(self, model: str, priority: int) -> int | None:
        """Predicted microseconds until work accepted now would begin; None if no runner may load the model."""
        waits_us = [predict.wait_us(priority, one) for one in self._runners.get(model, ())]
        return min(waits_us, default=None)

    def completion_us(self, job: fleet.Job) -> int | None:
        """Predicted microseconds until a job accepted now would be done, as placement predicts it; None if no runner may."""
        expected_us = [predict.completion_us(job, one) for one in self._runners.get(job.model, ())]
        return min(expected_us, default=None)


def _runner(row: fleet_store.Row, heartbeat: pb.Heartbeat) -> fleet.Runner:
    return fleet.Runner(
        runner_id=row.registration.runner_id,
        node=row.registration.node,
        models=frozenset(row.registration.models),
        resident=frozenset(heartbeat.resident_models),
        foreign_utilization=row.status.get("foreign_utilization", 0.0),
        step_us=peer.step_costs(heartbeat),
    )


def _pour(waiting: Iterable[fleet.Load], runners: dict[str, fleet.Runner]) -> None:
    """Share what waits among the runners that may load its model, most urgent first, as placement will: to whom has least ahead."""
    for load in sorted(waiting, key=lambda load: load.priority):
        ahead_us = {
            one.runner_id: predict.ahead_us(load.priority, one) for one in runners.values() if load.model in one.models
        }
        sums_us = itertools.accumulate(sorted(ahead_us.values()))
        level_us = min(((load.work_us + sum_us) // count for count, sum_us in enumerate(sums_us, 1)), default=0)
        for runner_id in (one for one, its_us in ahead_us.items() if its_us < level_us):
            backlog_us = Counter(runners[runner_id].backlog_us)
            backlog_us[load.priority] += level_us - ahead_us[runner_id]
            runners[runner_id] = dataclasses.replace(runners[runner_id], backlog_us=backlog_us)


def _measured(product: str, heartbeat: pb.Heartbeat, model: str) -> fleet.Accelerator:
    return fleet.Accelerator(
        product,
        model in heartbeat.resident_models,
        {shape: cost_us for (name, shape), cost_us in peer.step_costs(heartbeat).items() if name == model},
        {size: cost for (name, size), cost in peer.fixed_costs(heartbeat).items() if name == model},
    )


def _slower(one: fleet.Accelerator, other: fleet.Accelerator) -> fleet.Accelerator:
    steps_us, others_us, none = one.step_costs_us, other.step_costs_us, fleet.FixedCost()
    sizes = {*one.fixed_costs, *other.fixed_costs}
    dearest = {size: map(max, one.fixed_costs.get(size, none), other.fixed_costs.get(size, none)) for size in sizes}
    return fleet.Accelerator(
        one.product,
        one.is_resident or other.is_resident,
        {shape: max(steps_us.get(shape, 0), others_us.get(shape, 0)) for shape in {*steps_us, *others_us}},
        {size: fleet.FixedCost(*costs_us) for size, costs_us in dearest.items()},
    )
