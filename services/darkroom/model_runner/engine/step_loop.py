"""The step loop: it admits generations, steps whatever shares a batch, and hands out results.

In: jobs and cancels, between turns. Out: events. A turn: admit the oldest waiting jobs (their model, their LoRAs, their
text, their noise); run one slice, which is one step for the rows whose turn it is; decode what is done. So a job joins
and leaves at any step, and a cancel waits for one step at most. Every measured microsecond goes to the generations that
used it, or to the platform. Next: `engine` passes the events on to the runner's servicer.
"""

import collections
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch

from darkroom.model_runner import batch, step_cost
from darkroom.model_runner.engine import account, encode, errors
from darkroom.model_runner.engine.families import Family, Load
from darkroom.model_runner.engine.generation import Generation, Row
from darkroom.model_runner.engine.job import (
    Cancelled,
    EngineConfig,
    Event,
    Failed,
    Finished,
    Job,
    ModelSpec,
    Output,
    Snapshot,
    Started,
)
from darkroom.model_runner.engine.residency import Residency
from darkroom.model_runner.engine.state import BatchKey

Result = TypeVar("Result")

_log = logging.getLogger(__name__)


class StepLoop:
    """The work of one accelerator; belongs to one thread, which runs it under `torch.inference_mode`."""

    def __init__(
        self,
        config: EngineConfig,
        specs: Sequence[ModelSpec],
        on_event: Callable[[Event], None],
        *,
        families: Mapping[str, Load],
    ) -> None:
        self._config = config
        self._on_event = on_event
        self._cuda = torch.device(config.device).type == "cuda"
        self._residency = Residency(config, specs, families)
        self._account = account.Account()
        self._step_costs = step_cost.Table()
        self._live: dict[str, Generation] = {}
        self._waiting: collections.deque[Generation] = collections.deque()
        self._rows: collections.deque[Row] = collections.deque()
        self.snapshot = self._look()

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._live

    def accept(self, job: Job) -> None:
        """Put a job behind those that wait."""
        generation = Generation(job, now_us=_now_us())
        self._live[job.key] = generation
        self._waiting.append(generation)

    def cancel(self, job_key: str) -> None:
        """End a job; nothing happens if it has ended already."""
        if generation := self._live.get(job_key):
            self._end(generation, Cancelled(job_key, generation.usage()))

    def fail_all(self, reason: errors.EngineError) -> None:
        """End every job with `reason`."""
        for generation in list(self._live.values()):
            self._end_failed(generation, reason)

    def turn(self) -> None:
        """Admit, run one slice, decode; raises DeviceLost when the accelerator is gone, after failing who was on it."""
        self._admit()
        if self._rows:
            self._slice()
        self.snapshot = self._look()

    def _admit(self) -> None:
        """Prepare waiting jobs in the order of their arrival, as far as memory goes."""
        while self._waiting:
            generation = self._waiting[0]
            job = generation.job
            in_use = {row.generation.job.model for row in self._rows}
            full = len(self._rows) + len(job.seeds) > self._config.rows_live_max
            if (self._rows and full) or self._residency.must_wait(job.model, in_use=in_use):
                return
            self._waiting.popleft()
            generation.mark("wait", now_us=_now_us())
            try:
                load_us = self._load(generation, in_use)
                self._prepare(generation, self._residency.get(job.model, in_use=in_use))
            except Exception as error:
                self._fail(generation, error)
            else:
                self._on_event(Started(job.key, load_us))

    def _load(self, generation: Generation, in_use: set[str]) -> int:
        """Make the generation's model resident; return the microseconds, which the platform bears."""
        if self._residency.has(generation.job.model):
            return 0
        started_us = self._device_us()
        try:
            self._residency.get(generation.job.model, in_use=in_use)
        finally:
            load_us = self._device_us() - started_us
            self._account.platform(load_us)
        generation.mark("load", now_us=_now_us())
        return load_us

    def _prepare(self, generation: Generation, family: Family) -> None:
        job = generation.job
        if job.adapters:
            _, (generation.adapters_us,) = self._timed(lambda: [family.bank.get(use) for use in job.adapters])
            generation.mark("adapters", now_us=_now_us())
        states, (generation.prepare_us,) = self._timed(lambda: family.prepare([job])[0])
        generation.ready_us = _now_us()
        generation.mark("prepare", now_us=generation.ready_us)
        self._rows.extend(Row(generation, image, state) for image, state in enumerate(states))

    def _slice(self) -> None:
        """Run one step of the rows whose turn it is; those that go on queue up behind the others."""
        rows = batch.pick(self._rows, key_of=_key, rows_max=self._config.batch_rows_max)
        for row in rows:
            self._rows.remove(row)
        stepped = self._step(rows)
        self._report(stepped)
        for row in stepped:
            if row.generation.job.key not in self._live:
                continue  # another image of it has failed meanwhile
            if row.state.step < row.state.steps_total:
                self._rows.append(row)
            else:
                self._finish(row)

    def _step(self, rows: list[Row]) -> list[Row]:
        """Return the rows one step further; when a batch fails, each row is tried alone, so that it fails alone."""
        states = [row.state for row in rows]
        family = self._family(rows[0])
        try:
            moved, shares_us = self._timed(lambda: family.advance(states, family.denoise(states)), parts=len(rows))
        except Exception as error:
            if len(rows) == 1 or isinstance(errors.translate(error), errors.DeviceLost):
                self._fail(rows[0].generation, error)
                return []
            _log.warning("a batch of %d rows failed (%s); each is tried alone", len(rows), type(error).__name__)
            return [moved for row in rows if row.generation.job.key in self._live for moved in self._step([row])]
        key = states[0].batch_key
        shape = step_cost.Shape(key.model, key.shape, key.guided, len(rows))
        self._step_costs.observe(shape, sum(shares_us))
        for row, share_us in zip(rows, shares_us, strict=True):
            row.generation.denoise_us += share_us
        return [row._replace(state=state) for row, state in zip(rows, moved, strict=True)]

    def _report(self, rows: list[Row]) -> None:
        for row in rows:
            row.generation.stepped(row.image, row.state.step)
        for generation in dict.fromkeys(row.generation for row in rows):
            if generation.job.key in self._live:
                self._on_event(generation.progress(now_us=_now_us()))

    def _finish(self, row: Row) -> None:
        """Decode one image; its generation ends with its last one."""
        generation = row.generation
        generation.mark("denoise", now_us=_now_us())
        try:
            picture, (decode_us,) = self._timed(lambda: self._family(row).decode([row.state])[0])
            generation.decode_us += decode_us
            generation.mark("decode", now_us=_now_us())
            data = encode.png(picture)
        except Exception as error:
            self._fail(generation, error)
            return
        generation.mark("encode", now_us=_now_us())
        height, width = picture.shape[1:]
        generation.outputs[row.image] = Output(data, encode.PNG, width, height, row.state.seed)
        if len(generation.outputs) == len(generation.job.seeds):
            outputs = tuple(generation.outputs[image] for image in sorted(generation.outputs))
            self._end(generation, Finished(generation.job.key, outputs, generation.usage(), generation.stages()))

    def _family(self, row: Row) -> Family:
        model = row.generation.job.model
        return self._residency.get(model, in_use={model})

    def _fail(self, generation: Generation, error: Exception) -> None:
        """End a generation with its error; a lost device is raised further."""
        known = errors.translate(error)
        if known.fault == "runner":
            _log.error("generation %s failed", generation.job.key, exc_info=error)
        self._end_failed(generation, known)
        if isinstance(known, errors.DeviceLost):
            raise known from error

    def _end_failed(self, generation: Generation, error: errors.EngineError) -> None:
        usage = generation.usage()
        self._end(generation, Failed(generation.job.key, error.code, str(error), error.fault, usage))

    def _end(self, generation: Generation, event: Cancelled | Failed | Finished) -> None:
        del self._live[generation.job.key]
        self._waiting = collections.deque(other for other in self._waiting if other is not generation)
        self._rows = collections.deque(row for row in self._rows if row.generation is not generation)
        self.snapshot = self._look()
        self._on_event(event)

    def _timed(self, work: Callable[[], Result], *, parts: int = 1) -> tuple[Result, list[int]]:
        """Do device work and book its time: in shares for its `parts`, or on the platform if it fails."""
        started_us = self._device_us()
        try:
            result = work()
            took_us = self._device_us() - started_us
        except Exception:
            self._account.platform(_now_us() - started_us)
            raise
        return result, self._account.share(took_us, parts)

    def _device_us(self) -> int:
        """Return the time when all work given to the device so far is done."""
        if self._cuda:
            torch.cuda.synchronize(self._config.device)
        return _now_us()

    def _look(self) -> Snapshot:
        return Snapshot(
            busy_us=self._account.busy_us,
            platform_us=self._account.platform_us,
            jobs_waiting=len(self._waiting),
            rows_live=len(self._rows),
            models=self._residency.models,
            adapters=self._residency.adapters,
            step_costs=self._step_costs.snapshot(),
            slowdown=self._step_costs.slowdown,
        )


def _key(row: Row) -> tuple[BatchKey, str]:
    job = row.generation.job
    return row.state.batch_key, job.key if job.solo else ""


def _now_us() -> int:
    return time.monotonic_ns() // 1000
