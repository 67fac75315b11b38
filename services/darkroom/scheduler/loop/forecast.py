"""What admission may expect of the fleet, on any replica.

The owners of pools publish what their runners tell; every replica reads it back here about once a second. Servicers ask, without
waiting: what a step costs, how much work waits, how many runners there are.
"""

import asyncio
import logging
from collections import defaultdict

from google.protobuf import json_format

from darkroom import errors, postgres
from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.scheduler.config import Config
from darkroom.scheduler.loop import link
from darkroom.scheduler.store import fleet as fleet_store

REFRESH_S = 1.0

_log = logging.getLogger(__name__)


class Forecast:
    """The last reading; empty until `run` has read once, and kept while the database is away."""

    def __init__(self, database: postgres.Database, config: Config) -> None:
        self._fleet = fleet_store.Fleet(database)
        self._seen_within_s = config.runner_lease_s
        self._step_us: dict[tuple[str, str], int] = {}
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
        slowest: dict[tuple[str, str], int] = {}
        for row in await self._fleet.live(seen_within_s=self._seen_within_s):
            for model in row.registration.models:
                runners[model] += 1
            for key, step_us in _step_costs(row).items():
                slowest[key] = max(step_us, slowest.get(key, 0))
        loads = await self._fleet.loads()
        self._runners, self._step_us = dict(runners), slowest
        self._work_us = {(load.model, load.priority): load.work_us for load in loads}

    def step_cost_us(self, model: str, shape: str) -> int | None:
        """Microseconds of one row's step on the slowest runner that measured this shape; None if none did."""
        return self._step_us.get((model, shape))

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


def _step_costs(row: fleet_store.Row) -> dict[tuple[str, str], int]:
    return link.step_costs(json_format.ParseDict(row.status.get("heartbeat", {}), pb.Heartbeat()))
