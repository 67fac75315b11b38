"""One step of every row of a batch, each by its own plan.

In: states and their predictions. Out: new states, one step further; those given stay as they are. Next: the step loop.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from darkroom_kernels import ops

if TYPE_CHECKING:  # a state holds a plan, so this module cannot ask for it at import
    from darkroom.model_runner.engine.state import Predictions, State


def advance(states: "Sequence[State]", predictions: "Predictions") -> "list[State]":
    """Take one step for each row: an Euler step of flow matching, as diffusers' scheduler does for a single schedule.

    The velocity is `negative + guidance * (positive - negative)`, or `positive` where the batch is not guided.
    """
    latents = torch.stack([state.latents for state in states])
    guidance = None if predictions.negative is None else _column([state.guidance for state in states], latents)
    lengths = _column([float(state.plan.matrices[state.step, 0, 1]) for state in states], latents)
    moved = ops.guidance_step(
        latents, predictions.positive, predictions.negative, torch.zeros_like(lengths), lengths, guidance
    )
    return [
        dataclasses.replace(state, step=state.step + 1, latents=row)
        for state, row in zip(states, moved.unbind(), strict=True)
    ]


def _column(values: list[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device)
