"""A family that can be computed by hand: each step adds 1 to the latents, and the picture is their value / 255.

In: jobs whose prompt says what goes wrong, and where. Out: states, and `forwards`, which batch ran in each step.
"""

import concurrent.futures
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darkroom.model_runner import step_cost
from darkroom.model_runner.engine import adapters, errors, pictures, revision, samplers, tiers
from darkroom.model_runner.engine.families import Medium
from darkroom.model_runner.engine.job import Job, ModelSpec
from darkroom.model_runner.engine.state import BatchKey, Predictions, State


def plan(steps: int) -> samplers.Plan:
    """Return a table that nobody multiplies by."""
    return samplers.Plan(
        sampler="counting",
        timesteps=(0.0,) * steps,
        input_scales=(1.0,) * steps,
        matrices=np.zeros((steps, 1, 3)),
        noise_scale=1.0,
        noising=np.zeros((steps, 2)),
    )


class Clock:
    """A clock that only moves when it is told to, and remembers for how long work was done."""

    def __init__(self) -> None:
        self.now_us = self.worked_us = 0

    def __call__(self) -> int:
        return self.now_us

    def work(self, us: int) -> None:
        """Let work take so long."""
        self.now_us += us
        self.worked_us += us


class Inline(concurrent.futures.Executor):
    """Does what it is given at once, on the caller's thread."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Later(concurrent.futures.Executor):
    """Does what it is given when it is told to."""

    def __init__(self) -> None:
        self._given: list[tuple[concurrent.futures.Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._given.append((future, lambda: fn(*args, **kwargs)))
        return future

    def work(self) -> None:
        for future, do in self._given:
            try:
                future.set_result(do())
            except Exception as error:
                future.set_exception(error)
        self._given = []


class Counting:
    """`Counting.load` is what a family's `load` is; `forwards` lists, for each forward, the seeds in the batch."""

    medium: Medium = "image"
    samples_per_second = 0

    def __init__(self) -> None:
        self.bank = adapters.Bank(torch.nn.Module(), resident_max=1)
        self.tiers = tiers.Tiers(torch.nn.Module())
        self.sizing: pictures.Sizing = pictures.as_asked
        self.given: list[Job] = []
        self.forwards: list[list[int]] = []
        self.prepared: list[list[str]] = []
        self.decoded: list[list[int]] = []
        self.portable = True
        """Whether what has begun can be saved."""
        self.broken: dict[int, Exception] = {}
        self.batch_max = 1000
        self.is_short: Callable[[], bool] = lambda: False
        """Whether the device has no memory for anything."""
        self.clock = Clock()
        self.step_us: Callable[[int], int] = lambda rows: 1000 + 10 * rows
        """How long a step takes, by its rows: batches pay off."""

    def load(self, spec: ModelSpec, **_: Any) -> "Counting":
        self.clock.work(7000)
        return self

    def prepare(self, jobs: Sequence[Job]) -> list[list[State]]:
        """A prompt of `nan` makes latents that are none, one of `bad` is refused."""
        self.prepared.append([job.key for job in jobs])
        self.given += jobs
        self.clock.work(100 + len(jobs))
        if any(job.prompt == "bad" for job in jobs):
            raise errors.BadRequest("prompt: this one is refused")
        return [[_state(job, seed, portable=self.portable) for seed in job.seeds] for job in jobs]

    def denoise(self, states: Sequence[State]) -> Predictions:
        """Fail for a seed in `broken`, and for batches larger than `batch_max`, as a device without memory does."""
        self.forwards.append([state.seed for state in states])
        self.clock.work(self.step_us(len(states)))
        if len(states) > self.batch_max or self.is_short():
            raise torch.OutOfMemoryError("CUDA out of memory")
        for state in states:
            if state.seed in self.broken:
                raise self.broken[state.seed]
        return Predictions(torch.ones(len(states), 1), None)

    def advance(self, states: Sequence[State], predictions: Predictions) -> list[State]:
        return [
            dataclasses.replace(state, step=state.step + 1, latents=state.latents + added)
            for state, added in zip(states, predictions.positive, strict=True)
        ]

    def decode(self, states: Sequence[State]) -> list[Tensor]:
        self.decoded.append([state.seed for state in states])
        self.clock.work(200 + len(states))
        width, height = states[0].batch_key.size
        return [(state.latents / 255).expand(3, height, width) for state in states]

    def release(self) -> Sequence[object]:
        return []


class Rooted(State):
    """A state that cannot be saved."""

    @property
    def is_portable(self) -> bool:
        """No."""
        return False


def _state(job: Job, seed: int, *, portable: bool) -> State:
    return (State if portable else Rooted)(
        batch_key=BatchKey(job.model, "text", (job.width, job.height), 1, job.guidance_scale > 1),
        seed=seed,
        step=0,
        plan=plan(job.steps),
        guidance=job.guidance_scale,
        latents=torch.tensor([float("nan") if job.prompt == "nan" else 0.0]),
        conditioning={},
        adapters=job.adapters,
        tier=job.tier,
    )


def costs() -> list[step_cost.StepCost]:
    """Return the costs of its steps as if they had been measured before."""
    return [
        step_cost.StepCost(step_cost.Shape(model, size, guided, rows, "text"), 1000 + 10 * rows, 10)
        for model in ("counting", "other")
        for size in ("32x32", "64x32")
        for guided in (False, True)
        for rows in (1, 2, 4, 8, 16)
    ]


def spec(path: Path, **changes: Any) -> ModelSpec:
    """Return the catalogue entry of a counting model."""
    values: dict[str, Any] = {
        "name": "counting",
        "family": "counting",
        "path": path,
        "revision": revision.digest(path),
        "guidance": "none",
        "memory_bytes": 1,
    }
    return ModelSpec(**(values | changes))
