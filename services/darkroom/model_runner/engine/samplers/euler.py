"""Euler's method: one prediction, one straight step, nothing remembered. With and without fresh noise.

In: a request. Out: a `Plan`. `flow_euler` is for flow-matching models; `euler` and `euler_ancestral` work in the scale where
the picture stays and noise is added (sigma), and show the denoiser the latents divided by sqrt(sigma² + 1).
Next: `advance`.
"""

from typing import Any

import diffusers
import numpy as np

from darkroom.model_runner.engine.plan import Plan, Table
from darkroom.model_runner.engine.samplers import levels


def flow_euler(request: levels.Request) -> Plan:
    """Return `x + (next sigma - sigma) * velocity`, or, where the model's scheduler says so, fresh noise at each step."""
    if not levels.is_flow(request.config):
        raise request.refusal("is for flow-matching models")
    overrides = {"shift": request.config["flow_shift"]} if "flow_shift" in request.config else {}
    options: dict[str, Any] = dict(levels.shift(request))
    if request.sigmas is not None:
        options["sigmas"] = np.asarray(request.sigmas)
    table = levels.read(
        levels.schedule(diffusers.FlowMatchEulerDiscreteScheduler, request, overrides=overrides, **options)
    )
    now, after = table.sigmas[:-1], table.sigmas[1:]
    ones = np.ones_like(now)
    if table.config["stochastic_sampling"]:
        matrices = _one_row(1 - after, -(1 - after) * now, after)
    else:
        matrices = _one_row(ones, after - now, 0 * ones)
    return _plan(request, table, matrices, scales=ones, noising=np.stack([1 - now, now], axis=-1))


def euler(request: levels.Request) -> Plan:
    """Return Euler steps along the probability flow."""
    table = _table(diffusers.EulerDiscreteScheduler, request)
    matrices = _towards(request, table, table.sigmas[1:], np.zeros(len(table.timesteps)))
    return _in_sigma(request, table, matrices)


def euler_ancestral(request: levels.Request) -> Plan:
    """Return Euler steps that go below the next level and come back up with fresh noise."""
    table = _table(diffusers.EulerAncestralDiscreteScheduler, request)
    now, after = table.sigmas[:-1], table.sigmas[1:]
    up = np.sqrt(after**2 * (now**2 - after**2) / now**2)
    return _in_sigma(request, table, _towards(request, table, np.sqrt(after**2 - up**2), up))


def _table(scheduler_class: type, request: levels.Request) -> levels.Levels:
    if levels.is_flow(request.config):
        raise request.refusal("is not for flow-matching models")
    return levels.read(levels.schedule(scheduler_class, request, overrides={}))


def _towards(request: levels.Request, table: levels.Levels, down: Table, up: Table) -> Table:
    """Return the matrices of steps to the levels `down`, with `up` of fresh noise."""
    now = table.sigmas[:-1]
    scale = np.sqrt(now**2 + 1)
    a, b = levels.clean(request, table.config["prediction_type"], alpha=1 / scale, sigma=now / scale)
    slope = (down - now) / now
    return _one_row(1 + (1 - a / scale) * slope, -b * slope, up)


def _one_row(latents: Table, prediction: Table, noise: Table) -> Table:
    return np.stack([latents, prediction, noise], axis=-1)[:, None, :]


def _in_sigma(request: levels.Request, table: levels.Levels, matrices: Table) -> Plan:
    now = table.sigmas[:-1]
    noising = np.stack([np.ones_like(now), now], axis=-1)
    return _plan(request, table, matrices, scales=1 / np.sqrt(now**2 + 1), noising=noising)


def _plan(request: levels.Request, table: levels.Levels, matrices: Table, *, scales: Table, noising: Table) -> Plan:
    return Plan(
        sampler=request.sampler,
        timesteps=tuple(table.timesteps.tolist()),
        input_scales=tuple(scales.tolist()),
        matrices=matrices,
        noise_scale=table.noise_scale,
        noising=noising,
    )
