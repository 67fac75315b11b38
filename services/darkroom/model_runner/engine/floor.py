"""What the parts of the step loop share: who is here, the clock, the time account, and how a generation ends.

In: what `admission`, `slices` and `finishing` measured and made. Out: events. It also narrows a failure down: work that
fails for several is tried for fewer, so that whoever is at fault fails alone. Next: `engine` passes the events on.
"""

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Generic, NamedTuple, TypeVar

import torch

from darkroom.model_runner import batch, fixed_cost, step_cost
from darkroom.model_runner.engine import account, errors, hurry, measured
from darkroom.model_runner.engine.families import Family, Load
from darkroom.model_runner.engine.generation import Busy, Generation, Row
from darkroom.model_runner.engine.job import Ended, EngineConfig, Event, Failed, ModelSpec
from darkroom.model_runner.engine.residency import Residency

Item = TypeVar("Item")
Result = TypeVar("Result")

_SHORT_US = 60_000_000
"""How long batches stay small after memory was short: what took it may be gone then, and a vain try costs one step."""

_log = logging.getLogger(__name__)


class Done(NamedTuple, Generic[Item, Result]):
    """One item's result and its share of the time."""

    item: Item
    result: Result
    share_us: int


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
        put_aside: Callable[[Generation], None],
        costs: measured.Costs,
    ) -> None:
        self.config = config
        self.emit = on_event
        self.pool = pool
        self.now_us = now_us
        self.put_aside = put_aside  # saves a generation and ends it
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
        self.rows_max: dict[Hashable, int] = {}  # of what the device had no memory for, until it is tried again
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
        if self.now_us() >= self._short_until_us:
            self.rows_max.clear()
        available = min(len(levels), self.config.batch_rows_max, self.rows_max.get(key, len(levels)))
        return batch.share(
            levels[:available],
            rows_worth=costs.rows_worth(shape, available),
            rows_unhurried=lambda rows: costs.rows_unhurried(shape, rows, slower_max=slower_max),
        )

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

    def together(
        self,
        items: Sequence[Item],
        work: Callable[[list[Item]], Sequence[Result]],
        *,
        generation_of: Callable[[Item], Generation],
        key: Hashable,
    ) -> list[Done[Item, Result]]:
        """Do the work for all items at once; where it fails, for fewer, so that each item that fails does so alone.

        Where memory was short, idle models leave, two halves are tried, and later batches of this `key` are as small; for
        one alone, the least urgent other generation leaves too.
        """
        items = [item for item in items if self.is_live(generation_of(item))]
        if not items:
            return []
        done, error = self._try(items, work)
        if error is None:
            return done
        self.stirred = True
        short = isinstance(errors.translate(error), errors.OutOfMemory)
        if len(items) == 1:
            generation = generation_of(items[0])
            return self._once_more(items, work, generation) if short else self._give_up(generation, error)
        _log.warning("work for %d together failed (%s); fewer are tried", len(items), type(error).__name__)
        part = 1
        if short:
            part = -(-len(items) // 2)
            self.relieve(besides=generation_of(items[0]).job.model)
            self.rows_max[key] = min(part, self.rows_max.get(key, part))
            self._short_until_us = self.now_us() + _SHORT_US
        parts = [items[begin : begin + part] for begin in range(0, len(items), part)]
        return [each for part in parts for each in self.together(part, work, generation_of=generation_of, key=key)]

    def _once_more(
        self, items: Sequence[Item], work: Callable[[list[Item]], Sequence[Result]], generation: Generation
    ) -> list[Done[Item, Result]]:
        """Try one that memory was too short for again without idle models, then without the least urgent generation."""
        self.relieve(besides=generation.job.model)
        done, error = self._try(items, work)
        if error is not None and (other := self._less_urgent(generation)):
            _log.warning("generation %s is put aside: there is not enough memory", other.job.key)
            self.put_aside(other)
            self.relieve(besides=generation.job.model)
            done, error = self._try(items, work)
        return self._give_up(generation, error) if error else done

    def _give_up(self, generation: Generation, error: Exception) -> list[Done[Item, Result]]:
        self.fail(generation, error)
        return []

    def _less_urgent(self, generation: Generation) -> Generation | None:
        """Return the generation on the device that is least urgent, if it is less so than this one."""

        def urgency(other: Generation) -> tuple[int, int]:
            return other.job.priority, other.arrived_us

        others = [row.generation for row in self.rows if row.generation is not generation]
        least = max(others, key=urgency, default=generation)
        return least if urgency(least) > urgency(generation) else None

    def _try(
        self, items: Sequence[Item], work: Callable[[list[Item]], Sequence[Result]]
    ) -> tuple[list[Done[Item, Result]], Exception | None]:
        try:
            results, shares_us = self.timed(lambda: work(list(items)), parts=len(items))
        except Exception as error:
            known = errors.translate(error)
            if isinstance(known, errors.DeviceLost):
                raise known from error
            if isinstance(known, errors.OutOfMemory):
                return [], known  # without its traceback, whose frames hold the tensors that filled the memory
            return [], error
        return [Done(*each) for each in zip(items, results, shares_us, strict=True)], None

    def relieve(self, *, besides: str) -> None:
        """Give back the memory of what nobody uses now, a model `besides`."""
        self.residency.evict_idle(in_use=self.models_in_use() | {besides})

    def fail(self, generation: Generation, error: Exception) -> None:
        """End a generation with its error."""
        known = errors.translate(error)
        if known.fault == "runner":
            _log.error("generation %s failed", generation.job.key, exc_info=error)
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

    def end(self, generation: Generation, event: Ended) -> None:
        """Say a generation's last event, and let go of all that it had."""
        del self.generations[generation.job.key]
        self.waiting = [other for other in self.waiting if other is not generation]
        self.rows = [row for row in self.rows if row.generation is not generation]
        self.tenants.leave(generation.job.tenant_id)
        self.stirred = True
        self.emit(event)
