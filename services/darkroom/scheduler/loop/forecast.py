"""What admission may expect of the fleet, on any replica.

The owners of pools publish what their runners tell; every replica reads it back here about once a second. Servicers ask, without
waiting: what a step costs, how much work waits, how many runners there are.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping

from google.protobuf import json_format

from darkroom import errors, postgres
from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.scheduler.config import Config
from darkroom.scheduler.domain import fleet
from darkroom.scheduler.loop import link
from darkroom.scheduler.store import fleet as fleet_store

REFRESH_S = 1.0

_log = logging.getLogger(__name__)


class Forecast:
    """The last reading; empty until `run` has read once, and kept while the database is away."""

    def __init__(self, database: postgres.Database, config: Config) -> None:
        self._fleet = fleet_store.Fleet(database)
        self._seen_within_s = config.runner_lease_s
        self._accelerators: dict[str, dict[str, fleet.Accelerator]] = {}
        self._runners: dict[str, int] = {}
        self._work_us: dict[tuple[str, int], int] = {}

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
        runners: dict[str, int] = defaultdict(int)
        accelerators: dict[str, dict[str, fleet.Accelerator]] = defaultdict(dict)
        for row in await self._fleet.live(seen_within_s=self._seen_within_s):
            heartbeat = json_format.ParseDict(row.status.get("heartbeat", {}), pb.Heartbeat())
            product = row.registration.device.get("product", "")
            for model in row.registration.models:
                runners[model] += 1
                known = accelerators[model].get(product, fleet.Accelerator(product, False, {}))
                accelerators[model][product] = _slower(known, heartbeat, model)
        loads = await self._fleet.loads()
        self._runners, self._accelerators = dict(runners), dict(accelerators)
        self._work_us = {(load.model, load.priority): load.work_us for load in loads}

    def step_costs_us(self, model: str) -> dict[str, int]:
        """Microseconds of one row's step by bucket, on the slowest runner that measured it."""
        slowest: dict[str, int] = {}
        for accelerator in self.accelerators(model):
            slowest = _slowest(slowest, accelerator.step_costs_us)
        return slowest

    def accelerators(self, model: str) -> list[fleet.Accelerator]:
        """The kinds of accelerators whose runners take work for the model."""
        return list(self._accelerators.get(model, {}).values())

    def runners(self, model: str) -> int:
        """Runners that take work for the model."""
        return self._runners.get(model, 0)

    def wait_us(self, model: str, priority: int) -> int | None:
        """Predicted microseconds until work accepted now would begin; None if no runner may load the model.

        All that waits or runs in this class and those before it, shared by the model's runners.
        """
        if not (runners := self.runners(model)):
            return None
        return sum(us for (name, rank), us in self._work_us.items() if name == model and rank <= priority) // runners


def _slower(known: fleet.Accelerator, heartbeat: pb.Heartbeat, model: str) -> fleet.Accelerator:
    told = {shape: cost_us for (name, shape), cost_us in link.step_costs(heartbeat).items() if name == model}
    is_resident = known.is_resident or model in heartbeat.resident_models
    return fleet.Accelerator(known.product, is_resident, _slowest(known.step_costs_us, told))


def _slowest(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {shape: max(one.get(shape, 0), other.get(shape, 0)) for shape in {*one, *other}}
