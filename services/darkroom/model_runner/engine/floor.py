"""What the parts of the step loop share: who is here, the clock, the time account, what was measured, and how a generation ends.

In: what `admission`, `slices` and `finishing` measured and made. Out: events. Next: `engine` passes the events on.
"""

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence, Set
from concurrent.futures import Executor
from typing import TypeVar

import torch

from darkroom.model_runner import batch, fixed_cost, step_cost
from darkroom.model_runner.engine import account, errors, hurry, measured
from darkroom.model_runner.engine.families import Family, Load
from darkroom.model_runner.engine.generation import Busy, Generation, Row
from darkroom.model_runner.engine.job import Ended, EngineConfig, Event, Failed, ModelSpec
from darkroom.model_runner.engine.residency import Residency

Result = TypeVar("Result")

_SHORT_US = 60_000_000
"""How long batches stay small after memory was short: what took it may be gone then, and a vain try costs one step."""

_log = logging.getLogger(__name__)


class Floor:
    """The state of one accelerator's work; belongs to the engine's thread."""

    def __init__(
        self,
        config: EngineConfig,
        specs: Sequence[ModelSpec],
        on_event: Callable[[Event], None],
        *,
        families: Mapping[str, Load],
        pool: Executor,
        now_us: Callable[[], int],
        wake: Callable[[], None],
        costs: measured.Costs,
    ) -> None:
        self.config = config
        self.emit = on_event
        self.pool = pool
        self.now_us = now_us
        self.wake = wake  # from any thread: there is something to collect
        self.account = account.Account()
        self.tenants = account.Tenants()
        self.step_costs = step_cost.Table(costs.steps)
        self.hurry = hurry.Hurry(config.urgent_slower_max)
        self.decode_costs = step_cost.Table()
        self.fixed_costs = fixed_cost.Table(costs.fixed)
        self.residency = Residency(config, specs, families, pool=pool, now_us=now_us, wake=wake)
        self.generations: dict[str, Generation] = {}
        self.waiting: list[Generation] = []
        self.rows: list[Row] = []
        self._rows_max: dict[Hashable, int] = {}  # of what the device had no memory for
        self._short_until_us = 0
        self.stirred = True  # somebody came or went since this was last set to False
        self._cuda = torch.device(config.device).type == "cuda"

    def is_live(self, generation: Generation) -> bool:
        """Whether it has not ended."""
        return self.generations.get(generation.job.key) is generation

    def family(self, model: str) -> Family:
        """Return a resident model."""
        return self.residency.use(model)

    def models_in_use(self) -> set[str]:
        """Return the models of rows that still need the device."""
        return {row.model for row in self.rows if not row.is_decoded}

    def models_rooted(self) -> set[str]:
        """Return those of them that such rows cannot do without for a while: what these have begun cannot be saved."""
        return {row.model for row in self.rows if not row.is_decoded and not row.state.is_portable}

    def level(self, generation: Generation) -> batch.Level:
        """Return how urgent a generation that waits is by now."""
        ask = batch.Ask(None, generation.job.priority, generation.arrived_us, generation.arrived_us)
        return batch.level(ask, now_us=self.now_us(), ageing_us=self.config.ageing_us)

    def can_load(self, model: str, *, without: Set[str] = frozenset()) -> bool:
        """Whether a model may be loaded now, or could be if nobody used those `without`."""
        return self.residency.can_load(model, in_use=self.models_in_use() - without, rooted=self.models_rooted())

    def size(
        self,
        costs: step_cost.Table,
        shape: step_cost.Shape,
        key: Hashable,
        levels: Sequence[batch.Level],
        *,
        slower_max: float,
    ) -> int:
        """Return how many of a leader and its companions, whose levels these are, run together by the measured costs.

        Those less urgent than the leader may make it `slower_max` times longer.
        """
        available = min(len(levels), self.rows_max(key))
        return batch.share(
            levels[:available],
            rows_worth=costs.rows_worth(shape, available),
            rows_unhurried=lambda rows: costs.rows_unhurried(shape, rows, slower_max=slower_max),
        )

    def rows_max(self, key: Hashable) -> int:
        """Return how many of this key may run together: as configured, or fewer for a while after memory was short."""
        if self.now_us() >= self._short_until_us:
            self._rows_max.clear()
        return min(self.config.batch_rows_max, self._rows_max.get(key, self.config.batch_rows_max))

    def shrink(self, key: Hashable, rows: int) -> None:
        """Run so many of this key together at most, since memory was short for more."""
        self._rows_max[key] = min(rows, self._rows_max.get(key, rows))
        self._short_until_us = self.now_us() + _SHORT_US

    def grow(self) -> None:
        """Run as many together as configured: there is other room now."""
        self._rows_max.clear()

    def device_us(self) -> int:
        """Return the time when all work given to the device so far is done."""
        if self._cuda:
            torch.cuda.synchronize(self.config.device)
        return self.now_us()

    def timed(self, work: Callable[[], Result], *, parts: int = 1) -> tuple[Result, list[int]]:
        """Do device work and book its time: in shares for its `parts`, or on the platform if it fails."""
        started_us = self.device_us()
        try:
            result = work()
            took_us = self.device_us() - started_us
        except Exception:
            self.account.platform(self.now_us() - started_us)
            raise
        return result, self.account.share(took_us, parts)

    def relieve(self, *, besides: str) -> None:
        """Give back the memory of what nobody uses now, a model `besides`."""
        self.residency.evict_idle(in_use=self.models_in_use() | {besides})

    def fail(self, generation: Generation, error: Exception) -> None:
        """End a generation with its error."""
        known = errors.translate(error)
        if known.fault == "runner":
            # Only what a catalogue entry is at fault for is told in words: the others may quote the request.
            why = str(known) if isinstance(known, errors.LoadFailed) else known.code
            _log.error("generation %s failed: %s", generation.job.key, why, exc_info=error)
        self.end(generation, Failed(generation.job.key, known.code, str(known), known.fault, generation.usage()))

    def arrive(self, generation: Generation) -> None:
        """Take a generation in; it waits."""
        self.generations[generation.job.key] = generation
        self.waiting.append(generation)
        self.tenants.enter(generation.job.tenant_id)
        self.stirred = True

    def charge(self, generation: Generation, stage: Busy, share_us: int) -> bool:
        """Count its share of a stage; the platform bears what was done for one that has ended meanwhile (False)."""
        if not self.is_live(generation):
            self.account.forfeit(share_us)
            return False
        generation.busy_us[stage] += share_us
        self.tenants.use(generation.job.tenant_id, share_us)
        return True

    def refund(self, generation: Generation, stage: Busy, share_us: int) -> None:
        """Have the platform bear a share that a generation was charged with."""
        generation.busy_us[stage] -= share_us
        self.account.forfeit(share_us)

    def end(self, generation: Generation, event: Ended) -> None:
        """Say a generation's last event, and let go of all that it had."""
        del self.generations[generation.job.key]
        self.waiting = [other for other in self.waiting if other is not generation]
        self.rows = [row for row in self.rows if row.generation is not generation]
        self.tenants.leave(generation.job.tenant_id)
        self.stirred = True
        self.emit(event)
