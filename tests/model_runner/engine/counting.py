"""A family that can be computed by hand: each step adds 1 to the latents, and the picture is their value / 255.

In: jobs whose prompt says what goes wrong, and where. Out: states, and `forwards`, which batch ran in each step.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darkroom.model_runner.engine import adapters, errors, revision, samplers
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


class Counting:
    """`Counting.load` is what a family's `load` is; `forwards` lists, for each forward, the seeds in the batch."""

    medium: Medium = "image"

    def __init__(self) -> None:
        self.bank = adapters.Bank(torch.nn.Module(), resident_max=1)
        self.forwards: list[list[int]] = []
        self.prepared: list[list[str]] = []
        self.decoded: list[list[int]] = []
        self.broken: dict[int, Exception] = {}
        self.batch_max = 1000

    def load(self, spec: ModelSpec, **_: Any) -> "Counting":
        return self

    def prepare(self, jobs: Sequence[Job]) -> list[list[State]]:
        """A prompt of `nan` makes latents that are none, one of `bad` is refused."""
        self.prepared.append([job.key for job in jobs])
        if any(job.prompt == "bad" for job in jobs):
            raise errors.BadRequest("prompt: this one is refused")
        return [[_state(job, seed) for seed in job.seeds] for job in jobs]

    def denoise(self, states: Sequence[State]) -> Predictions:
        """Fail for a seed in `broken`, and for batches larger than `batch_max`, as a device without memory does."""
        self.forwards.append([state.seed for state in states])
        if len(states) > self.batch_max:
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
        width, height = states[0].batch_key.size
        return [(state.latents / 255).expand(3, height, width) for state in states]


def _state(job: Job, seed: int) -> State:
    return State(
        batch_key=BatchKey(job.model, "text", (job.width, job.height), 1, job.guidance_scale > 1),
        seed=seed,
        step=0,
        plan=plan(job.steps),
        guidance=job.guidance_scale,
        latents=torch.tensor([float("nan") if job.prompt == "nan" else 0.0]),
        conditioning={},
        adapters=job.adapters,
    )


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
