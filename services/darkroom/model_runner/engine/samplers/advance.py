"""One step of every row of a batch, each by its own plan.

In: states and their predictions. Out: new states, one step further; those given stay as they are. A row's numbers do not
depend on its companions, bit for bit: columns are added one by one, and those that a row does not have are zeros.
Next: `slices` lays the new states into their rows.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from darkroom.model_runner.engine.state import Predictions, State
from darkroom_kernels import ops


def advance(states: Sequence[State], predictions: Predictions) -> list[State]:
    """Take one step for each row; rows of different samplers may share the batch.

    The prediction is `negative + guidance * (positive - negative)`, or `positive` where the batch is not guided or a row's
    guidance is 1. Fresh noise comes from each row's own generator, on the CPU in float32.
    """
    latents = torch.stack([state.latents for state in states])
    guidance = None if predictions.negative is None else _floats([state.guidance for state in states], latents)
    if all(state.plan.sampler == "flow_euler" and not state.plan.draws_noise for state in states):
        return _slide(states, latents, predictions, guidance)
    drawn = [_draw(state) for state in states]
    moved = _multiply(states, latents, _combine(predictions, guidance), [fresh for fresh, _ in drawn])
    return [
        dataclasses.replace(
            state,
            step=state.step + 1,
            latents=row[0],
            history=tuple(row[1 : 1 + state.plan.history].unbind()),
            noise_rng=rng,
        )
        for state, row, (_, rng) in zip(states, moved.unbind(), drawn, strict=True)
    ]


def _slide(states: Sequence[State], latents: Tensor, predictions: Predictions, guidance: Tensor | None) -> list[State]:
    """Add each prediction times the length of its row's step, in one kernel."""
    lengths = _floats([float(state.plan.matrices[state.step, 0, 1]) for state in states], latents)
    moved = ops.guidance_step(
        latents, predictions.positive, predictions.negative, torch.zeros_like(lengths), lengths, guidance
    )
    return [
        dataclasses.replace(state, step=state.step + 1, latents=row)
        for state, row in zip(states, moved.unbind(), strict=True)
    ]


def _combine(predictions: Predictions, guidance: Tensor | None) -> Tensor:
    """Return what a guided batch predicts, in float32, as `ops.guidance_step` does."""
    positive = predictions.positive.float()
    if predictions.negative is None or guidance is None:
        return positive
    negative = predictions.negative.float()
    scale = guidance.view(-1, *(1,) * (positive.dim() - 1))
    return torch.where(scale == 1.0, positive, (positive - negative) * scale + negative)


def _draw(state: State) -> tuple[Tensor | None, Tensor | None]:
    """Return a row's fresh noise, if it takes any, and its generator's state after it."""
    if not state.plan.draws_noise:
        return None, state.noise_rng
    if state.noise_rng is None:
        raise ValueError(f"sampler {state.plan.sampler} draws noise, but the state holds no noise_rng")
    generator = torch.Generator("cpu").set_state(state.noise_rng)
    return torch.randn(state.latents.shape, generator=generator), generator.get_state()


def _multiply(states: Sequence[State], latents: Tensor, predicted: Tensor, fresh: Sequence[Tensor | None]) -> Tensor:
    """Return [rows, 1 + H, ...]: each row's matrix times its latents, prediction, history and noise."""
    history = max(state.plan.history for state in states)
    matrices = np.zeros((len(states), 1 + history, 3 + history))
    for matrix, state in zip(matrices, states, strict=True):
        own, kept = state.plan.matrices[state.step], state.plan.history
        matrix[: 1 + kept, : 2 + kept] = own[:, :-1]
        matrix[: 1 + kept, -1] = own[:, -1]
    factors = torch.from_numpy(matrices).float().to(latents.device)
    factors = factors.view(*factors.shape, *(1,) * (latents.dim() - 1))
    columns = [latents, predicted]
    columns += [
        _stack([state.history[index] if index < len(state.history) else None for state in states], latents)
        for index in range(history)
    ]
    columns.append(_stack(fresh, latents))
    total = torch.zeros(len(states), 1 + history, *latents.shape[1:], device=latents.device)
    for index, column in enumerate(columns):
        if matrices[:, :, index].any():
            total = total + factors[:, :, index] * column[:, None]
    return total


def _stack(rows: Sequence[Tensor | None], like: Tensor) -> Tensor:
    """Return the rows as one tensor on the device of `like`, with zeros for those that are not there."""
    return torch.stack(
        [torch.zeros_like(like[0]) if row is None else row.to(like.device, torch.float32) for row in rows]
    )


def _floats(values: list[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device)
