"""Samplers: from latents and predictions to the next latents, every row at its own place on its own noise schedule.

In: states and their predictions. Out: new states, one step further. They are functions, with no scheduler object that
remembers where it is, so rows of different step counts share a batch. Next: `families` name the one they use.
"""

import dataclasses
from collections.abc import Sequence

import torch

from darkroom.model_runner.engine.state import Predictions, State
from darkroom_kernels import ops


def flow_euler(states: Sequence[State], predictions: Predictions) -> list[State]:
    """Take one Euler step of a flow-matching model, as diffusers' scheduler does for a single schedule.

    The velocity is `negative + guidance * (positive - negative)`, or `positive` where the batch is not guided.
    """
    latents = torch.stack([state.latents for state in states])
    guidance = None if predictions.negative is None else _column([state.guidance for state in states], latents)
    moved = ops.guidance_step(
        latents,
        predictions.positive,
        predictions.negative,
        _column([state.sigmas[state.step] for state in states], latents),
        _column([state.sigmas[state.step + 1] for state in states], latents),
        guidance,
    )
    return [
        dataclasses.replace(state, step=state.step + 1, latents=row)
        for state, row in zip(states, moved.unbind(), strict=True)
    ]


def _column(values: list[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device)
