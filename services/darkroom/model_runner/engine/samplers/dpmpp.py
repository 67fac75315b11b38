"""DPM-Solver++ (2M): steps along a line through the clean pictures of this prediction and the one before.

In: a request. Out: a `Plan` that remembers one tensor, the last clean picture. Formulas: https://arxiv.org/abs/2211.01095,
where time is log(alpha / sigma) and h its growth in a step. Next: `advance`.
"""

import math
from typing import Any

import diffusers
import numpy as np

from darkroom.model_runner.engine.plan import Plan, Table
from darkroom.model_runner.engine.samplers import levels

_LATENTS, _PREDICTION, _BEFORE, _NOISE = np.eye(4)
_FEW_STEPS = 15
"""Below this many, diffusers' lower_order_final makes the last step first-order."""


def dpmpp_2m(request: levels.Request) -> Plan:
    """Return second-order multistep steps; the first and, where the scheduler's options say so, the last are first-order."""
    return _solve(request, karras=False, stochastic=False)


def dpmpp_2m_karras(request: levels.Request) -> Plan:
    """Return the same with Karras' spacing of noise levels; not for flow-matching models."""
    return _solve(request, karras=True, stochastic=False)


def dpmpp_2m_sde(request: levels.Request) -> Plan:
    """Return the same with fresh noise at every step; not for flow-matching models."""
    return _solve(request, karras=bool(request.config.get("use_karras_sigmas")), stochastic=True)


def _solve(request: levels.Request, *, karras: bool, stochastic: bool) -> Plan:
    table = _table(request, karras=karras, stochastic=stochastic)
    curve = levels.curve(table)
    a, b = levels.clean(request, table.config["prediction_type"], alpha=curve.alpha[:-1], sigma=curve.sigma[:-1])
    shown = np.outer(a, _LATENTS) + np.outer(b, _PREDICTION)
    steps = range(len(shown))
    firsts = [_matrix(table.config, curve, shown[step], step, order=1) for step in steps]
    orders = [1 if step == 0 or _ends_low(table.config, step, len(shown)) else 2 for step in steps]
    return Plan(
        sampler=request.sampler,
        timesteps=tuple(table.timesteps.tolist()),
        input_scales=(1.0,) * len(shown),
        matrices=np.stack([_matrix(table.config, curve, shown[step], step, order=orders[step]) for step in steps]),
        noise_scale=table.noise_scale,
        noising=np.stack([curve.alpha, curve.sigma], axis=-1)[:-1],
        starts=np.stack(firsts)[None],
    )


def _table(request: levels.Request, *, karras: bool, stochastic: bool) -> levels.Levels:
    overrides: dict[str, Any] = {
        "solver_order": 2,
        "use_karras_sigmas": karras,
        "algorithm_type": "sde-dpmsolver++" if stochastic else "dpmsolver++",
    }
    if levels.is_flow(request.config):
        if karras or stochastic:
            raise request.refusal("is not for flow-matching models")
        if (
            request.config.get("shift_terminal")
            or request.config.get("time_shift_type", "exponential") != "exponential"
        ):
            raise request.refusal("does not know how this model shifts its noise levels")
        overrides |= levels.as_flow_sigmas(request.config)
    scheduler = levels.schedule(
        diffusers.DPMSolverMultistepScheduler, request, overrides=overrides, **levels.shift(request)
    )
    if scheduler.config["variance_type"] in ("learned", "learned_range"):
        raise request.refusal("does not support models that predict a variance")
    return levels.read(scheduler)


def _ends_low(config: levels.Config, step: int, steps: int) -> bool:
    """Return whether this is the last step and taken with first order."""
    few = config["lower_order_final"] and steps < _FEW_STEPS
    return step == steps - 1 and bool(config["euler_at_final"] or few or config["final_sigmas_type"] == "zero")


def _matrix(config: levels.Config, curve: levels.Curve, shown: Table, step: int, *, order: int) -> Table:
    """Return the matrix of one step; `shown` says how the clean picture follows from latents and prediction."""
    alpha, sigma, time = (values[step : step + 2] for values in curve)
    stochastic = config["algorithm_type"] == "sde-dpmsolver++"
    decay = sigma[1] * alpha[0] / (alpha[1] * sigma[0])  # exp(-h), finite where h is not
    rate = decay**2 if stochastic else decay
    pull = alpha[1] * (1 - rate)
    moved = sigma[1] / sigma[0] * (decay if stochastic else 1.0) * _LATENTS + pull * shown
    if stochastic:
        moved = moved + sigma[1] * math.sqrt(1 - rate) * _NOISE
    if order == 2:
        h, h_before = time[1] - time[0], time[0] - curve.log_ratio[step - 1]
        heun = alpha[1] * ((rate - 1) / (2 * h if stochastic else h) + 1)
        lean = heun if config["solver_type"] == "heun" else 0.5 * pull
        moved = moved + lean * h / h_before * (shown - _BEFORE)
    return np.stack([moved, shown])
