"""PNDM without its Runge-Kutta steps (PLMS), as Stable Diffusion was published with: a straight line through several predictions.

In: a request. Out: a `Plan` of one step more than asked for (the second level is visited twice), which remembers the last
three predictions. Formula (9) of https://arxiv.org/abs/2202.09778. Next: `advance`.
"""

from typing import Any

import diffusers
import numpy as np

from darkroom.model_runner.engine.plan import Plan, Table
from darkroom.model_runner.engine.samplers import levels

_LATENTS, _PREDICTION, _LAST, _SECOND_LAST, _THIRD_LAST, _ = np.eye(6)
_NONE = np.zeros(6)
_STARTS = 4
"""Steps until there are predictions enough for the full order."""


def pndm(request: levels.Request) -> Plan:
    """Return linear multistep steps of order 4, after a first step that is taken twice and two of lower order."""
    if levels.is_flow(request.config):
        raise request.refusal("is not for flow-matching models")
    scheduler = levels.schedule(diffusers.PNDMScheduler, request, overrides={"skip_prk_steps": True})
    if scheduler.config["prediction_type"] not in ("epsilon", "v_prediction"):
        raise request.refusal(f"does not support prediction_type {scheduler.config['prediction_type']!r}")
    timesteps = scheduler.timesteps.numpy()
    steps = range(len(timesteps))
    return Plan(
        sampler=request.sampler,
        timesteps=tuple(timesteps.astype(float).tolist()),
        input_scales=(1.0,) * len(steps),
        matrices=np.stack([_matrix(scheduler, timesteps[step], step) for step in steps]),
        noise_scale=1.0,
        noising=np.stack(levels.split(scheduler, timesteps), axis=-1),
        starts=np.stack([[_matrix(scheduler, timesteps[step], age) for step in steps] for age in range(_STARTS)]),
    )


def _matrix(scheduler: Any, timestep: int, age: int) -> Table:
    """Return the matrix of the `age`-th step after the first; the first keeps its latents for the second."""
    stride = scheduler.config["num_train_timesteps"] // scheduler.num_inference_steps
    if age == 0:
        moved = _move(scheduler, timestep, stride, _LATENTS, _PREDICTION)
        return np.stack([moved, _PREDICTION, _LATENTS, _NONE])
    if age == 1:
        moved = _move(scheduler, timestep + stride, stride, _SECOND_LAST, (_PREDICTION + _LAST) / 2)
        return np.stack([moved, _LAST, _NONE, _NONE])
    if age == 2:
        line = (3 * _PREDICTION - _LAST) / 2
    elif age == 3:
        line = (23 * _PREDICTION - 16 * _LAST + 5 * _SECOND_LAST) / 12
    else:
        line = (55 * _PREDICTION - 59 * _LAST + 37 * _SECOND_LAST - 9 * _THIRD_LAST) / 24
    return np.stack([_move(scheduler, timestep, stride, _LATENTS, line), _PREDICTION, _LAST, _SECOND_LAST])


def _move(scheduler: Any, timestep: int, stride: int, latents: Table, predicted: Table) -> Table:
    """Return `latents` one stride further, by what the model is taken to predict there."""
    (alpha, alpha_next), (sigma, sigma_next) = levels.split(scheduler, np.array([timestep, timestep - stride]))
    noise = predicted
    if scheduler.config["prediction_type"] == "v_prediction":
        noise = alpha * predicted + sigma * latents
    change = (alpha_next**2 - alpha**2) / (alpha**2 * sigma_next + alpha * sigma * alpha_next)
    moved: Table = alpha_next / alpha * latents - change * noise
    return moved
