"""What admission may expect of the fleet, on any replica.

The owners of pools publish what their runners tell; every replica reads it back here about once a second. Servicers ask, without
waiting: what a step costs, how much work waits, when a job would be done, how many runners there are.
"""

import asyncio
import dataclasses
import functools
import logging
from collections import Counter, defaultdict
from collections.abc import Sequence

from google.protobuf import json_format

from darkroom import errors, postgres
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

    def __init__(self, database: postgres.Database, config: Config) -> None:
        self._fleet = fleet_store.Fleet(database)
        self._seen_within_s = config.runner_lease_s
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
        runners: dict[str, list[fleet.Runner]] = defaultdict(list)
        accelerators: dict[str, dict[str, fleet.Accelerator]] = defaultdict(dict)
        for row in await self._fleet.live(seen_within_s=self._seen_within_s):
            heartbeat = json_format.ParseDict(
                row.status.get("heartbeat", {}), pb.Heartbeat(), ignore_unknown_fields=True
            )
            product = row.registration.device.get("product", "")
            runner = _runner(row, heartbeat)
            for model in row.registration.models:
                runners[model].append(runner)
                told = _measured(product, heartbeat, model)
                accelerators[model][product] = _slower(told, accelerators[model].get(product, told))
        loads = await self._fleet.loads()
        alone_us = [load._replace(work_us=load.work_us // max(len(runners.get(load.model, ())), 1)) for load in loads]
        self._runners = {model: [_loaded(one, alone_us) for one in those] for model, those in runners.items()}
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
        waits_us = [
            round(predict.ahead_us(priority, one) * predict.slower(one)) for one in self._runners.get(model, ())
        ]
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


def _loaded(runner: fleet.Runner, alone_us: Sequence[fleet_store.Load]) -> fleet.Runner:
    """The runner with all that waits or runs of its models, as much of each as falls to one of those that may load it."""
    backlog_us: Counter[int] = Counter()
    for load in alone_us:
        if load.model in runner.models:
            backlog_us[load.priority] += load.work_us
    return dataclasses.replace(runner, backlog_us=backlog_us)


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
