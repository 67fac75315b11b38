"""The step loop: it decides, again and again, who has the device next.

In: jobs and cancels, between turns. Out: events. A turn is one piece of work: load a model, prepare waiting generations of
one model, run one step of rows that share a batch, or decode those whose steps are done. All who want the device stand in
one order (`batch`): class, deadline, fair share, arrival; so a job joins and leaves at any step, an urgent one goes first
at the next step, and a cancel waits for one step at most. How many run together is what the measured costs say. Every
microsecond goes to the generations that used it, or to the platform. Next: `reading`, `admission`, `slices`, `finishing`.
"""

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import NamedTuple

from darkroom.model_runner import batch
from darkroom.model_runner.engine import admission, errors, finishing, measured, reading, saving, slices
from darkroom.model_runner.engine.families import Load
from darkroom.model_runner.engine.floor import Floor
from darkroom.model_runner.engine.generation import Generation, Row
from darkroom.model_runner.engine.job import Cancelled, Ended, EngineConfig, Event, Failed, Job, ModelSpec, Snapshot

_FINISH, _JOIN, _STEP = 0, 1, 2
"""Eagerness within a class: a picture that only needs decoding, then who may join a batch, then steps."""


class _Wish(NamedTuple):
    """A generation that wants to be prepared, or a row that wants a step or to be decoded."""

    ask: batch.Ask
    generation: Generation
    row: Row | None


class StepLoop:
    """The work of one accelerator; belongs to one thread, which runs it under `torch.inference_mode`."""

    def __init__(
        self,
        config: EngineConfig,
        specs: Sequence[ModelSpec],
        on_event: Callable[[Event], None],
        *,
        families: Mapping[str, Load],
        pool: Executor,
        costs: measured.Costs,
        wake: Callable[[], None] = lambda: None,
        now_us: Callable[[], int] = lambda: time.monotonic_ns() // 1000,
    ) -> None:
        """Take an empty accelerator; `wake` is called, from any thread, when a turn may find what it did not before."""
        self._config = config
        self._on_event = on_event
        self._floor = Floor(
            config,
            specs,
            self._emit,
            families=families,
            pool=pool,
            now_us=now_us,
            wake=wake,
            costs=costs,
        )
        self._finishing = finishing.Finishing(self._floor)
        self._reading = reading.Reading(self._floor)
        self._slice: slices.Slice | None = None
        self._closed: dict[str, set[str]] = {}
        """For a model that waits for memory, those that cannot leave: their rows go on, but it goes before newcomers."""
        self.snapshot = self._look()

    def accept(self, job: Job, *, arrived_us: int | None = None) -> None:
        """Take a job in, which arrived now if not said otherwise."""
        self._floor.arrive(Generation(job, now_us=self._floor.now_us() if arrived_us is None else arrived_us))

    def cancel(self, job_key: str) -> None:
        """End a job; nothing happens if it has ended already."""
        if generation := self._floor.generations.get(job_key):
            self._floor.end(generation, Cancelled(job_key, generation.usage()))

    def drain(self) -> None:
        """End every job, saved so that another runner can go on with it."""
        for generation in list(self._floor.generations.values()):
            saving.suspend(self._floor, generation)

    def fail_all(self, reason: errors.EngineError) -> None:
        """End every job with `reason`."""
        for generation in list(self._floor.generations.values()):
            event = Failed(generation.job.key, reason.code, str(reason), reason.fault, generation.usage())
            self._floor.end(generation, event)

    def turn(self) -> bool:
        """Do one piece of work; False if there was none to do. DeviceLost when the accelerator is gone."""
        self._finishing.collect()
        self._reading.go_on()
        if self._slice is not None and slices.goes_on(self._floor, self._slice):
            self._slice = slices.step(self._floor, self._slice)
        else:
            self._slice = None
            if not self._next():
                self.snapshot = self._look()
                return False
        self.snapshot = self._look()
        return True

    def _next(self) -> bool:
        """Find out who is next, and do what they want."""
        floor = self._floor
        wishes = list(self._wishes())
        asks = [wish.ask for wish in wishes]
        ordered = batch.order(asks, now_us=floor.now_us(), ageing_us=self._config.ageing_us)
        closed: set[str] = set()
        for leader in ordered:
            model = wishes[leader].generation.job.model
            if floor.residency.has(model):
                if wishes[leader].row is None and model in closed:
                    continue
                self._do([wishes[index] for index in batch.companions(asks, ordered, leader)])
                return True
            if floor.can_load(model):
                self._closed.pop(model, None)
                admission.load(floor, wishes[leader].generation)
                return True
            if saving.make_way(floor, wishes[leader].generation):
                return True
            self._closed[model] = self._closed.get(model, set()) | floor.models_rooted()
            closed |= self._closed[model]
        return False

    def _do(self, wishes: Sequence[_Wish]) -> None:
        """Do what the first of the wishes wants, for as many of them as pay off."""
        now_us, ageing_us = self._floor.now_us(), self._config.ageing_us
        levels = [batch.level(wish.ask, now_us=now_us, ageing_us=ageing_us) for wish in wishes]
        row = wishes[0].row
        if row is None:
            peers = [wish.generation for wish, level in zip(wishes, levels, strict=True) if level <= levels[0]]
            admission.prepare(self._floor, admission.fitting(self._floor, peers))
            return
        rows = [wish.row for wish in wishes if wish.row is not None]
        if row.is_done:
            self._finishing.decode(rows[: finishing.size(self._floor, rows, levels)])
        else:
            slice_ = slices.begin(self._floor, rows[: slices.size(self._floor, rows, levels)])
            self._slice = slices.step(self._floor, slice_)

    def _wishes(self) -> Iterator[_Wish]:
        floor = self._floor
        for generation in admission.candidates(floor):
            eagerness = _JOIN if floor.residency.has(generation.job.model) else _STEP
            yield self._wish(generation, None, admission.key(generation), generation.arrived_us, eagerness)
        for row in floor.rows:
            if not row.is_done:
                yield self._wish(row.generation, row, slices.key(row), row.waiting_since_us, _STEP)
            elif not row.is_decoded:
                yield self._wish(row.generation, row, finishing.key(row), row.waiting_since_us, _FINISH)

    def _wish(
        self, generation: Generation, row: Row | None, key: Hashable, waiting_since_us: int, eagerness: int
    ) -> _Wish:
        job = generation.job
        ask = batch.Ask(
            key=key,
            priority=job.priority,
            waiting_since_us=waiting_since_us,
            arrived_us=generation.arrived_us,
            eagerness=eagerness,
            deadline_us=job.deadline_us,
            tenant_us=self._floor.tenants.used_us(job.tenant_id),
        )
        return _Wish(ask, generation, row)

    def _emit(self, event: Event) -> None:
        if isinstance(event, Ended):
            self.snapshot = self._look()  # first, so that who hears of an end sees an engine without it
        self._on_event(event)

    def _look(self) -> Snapshot:
        floor = self._floor
        return Snapshot(
            busy_us=floor.account.busy_us,
            platform_us=floor.account.platform_us,
            jobs_waiting=len(floor.waiting),
            rows_live=len(floor.rows),
            models=floor.residency.models,
            step_costs=floor.step_costs.snapshot(),
            slowdown=floor.step_costs.slowdown,
            fixed_costs=floor.fixed_costs.snapshot(),
            texts_remembered=floor.residency.embeddings.hits,
            texts_encoded=floor.residency.embeddings.misses,
            merged_bytes=floor.residency.merged_bytes,
            host_cache_bytes=floor.residency.host_cache_bytes,
        )
