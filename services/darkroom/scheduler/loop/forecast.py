"""What admission may expect of the fleet, on any replica.

The owners of pools publish what their runners tell; every replica reads it back here about once a second. Servicers ask, without
waiting: what a step costs, how much work waits, when a job would be done, how many runners there are.
"""

import asyncio
import dataclasses
import itertools
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from google.protobuf import json_format

from darkroom import catalog, errors, postgres
from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.scheduler import bucket, predict
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
        self._accelerators: dict[str, list[fleet.Accelerator]] = {}
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
        seen = [_seen(row) for row in await self._fleet.live(seen_within_s=self._seen_within_s)]
        aboard: dict[str, list[fleet.Load]] = defaultdict(list)
        for load in await self._fleet.loads():
            aboard[load.runner_id].append(load)
        pools: dict[str, list[fleet.Runner]] = defaultdict(list)
        for one in seen:
            pools[one.pool].append(one.runner)
        kinds = {pool: bucket.slowest(runner.step_us for runner in those) for pool, those in pools.items()}
        laden = {}
        for one in seen:
            runner = dataclasses.replace(one.runner, kind_us=kinds[one.pool])
            laden[runner.runner_id] = predict.laden(runner, aboard[runner.runner_id], self._load_us)
        _pour(aboard[""], laden)
        self._accelerators = _accelerators(seen)
        self._runners = {model: [one for one in laden.values() if model in one.models] for model in self._accelerators}

    def accelerators(self, model: str) -> list[fleet.Accelerator]:
        """The kinds of accelerators whose runners take work for the model."""
        return self._accelerators.get(model, [])

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


class _Seen(NamedTuple):
    """A runner as its pool's owner told of it, with nothing aboard."""

    pool: str
    product: str
    runner: fleet.Runner
    fixed_costs: Mapping[tuple[str, str], fleet.FixedCost]


def _seen(row: fleet_store.Row) -> _Seen:
    registration, told = row.registration, row.status.get("heartbeat", {})
    heartbeat = json_format.ParseDict(told, pb.Heartbeat(), ignore_unknown_fields=True)
    runner = fleet.Runner(
        runner_id=registration.runner_id,
        node=registration.node,
        models=frozenset(registration.models),
        resident=frozenset(heartbeat.resident_models),
        foreign_utilization=row.status.get("foreign_utilization", 0.0),
        step_us=peer.step_costs(heartbeat),
    )
    return _Seen(registration.pool, registration.device.get("product", ""), runner, peer.fixed_costs(heartbeat))


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


def _accelerators(seen: Iterable[_Seen]) -> dict[str, list[fleet.Accelerator]]:
    """The kinds of accelerators by model, with what was measured on the slowest of each."""
    products: dict[str, list[_Seen]] = defaultdict(list)
    for one in seen:
        products[one.product].append(one)
    kinds: dict[str, list[fleet.Accelerator]] = defaultdict(list)
    for product, those in products.items():
        steps_us = bucket.slowest(one.runner.step_us for one in those)
        fixed = _dearest(one.fixed_costs for one in those)
        resident = frozenset().union(*(one.runner.resident for one in those))
        for model in sorted(frozenset().union(*(one.runner.models for one in those))):
            measured_us: Mapping[str, int] = steps_us.get(model, {})
            kinds[model].append(fleet.Accelerator(product, model in resident, measured_us, fixed.get(model, {})))
    return dict(kinds)


def _dearest(tables: Iterable[Mapping[tuple[str, str], fleet.FixedCost]]) -> dict[str, dict[str, fleet.FixedCost]]:
    most: dict[str, dict[str, fleet.FixedCost]] = defaultdict(dict)
    for table in tables:
        for (model, size), cost in table.items():
            most[model][size] = fleet.FixedCost(*map(max, cost, most[model].get(size, fleet.FixedCost())))
    return most
