"""DPM-Solver++ (2M) over EDM's noise levels, as Stable Audio uses it: alone (an ODE) or with fresh noise at each step (an SDE).

In: a number of steps and the model's scheduler configuration (`EDMDPMSolverMultistepScheduler` or
`CosineDPMSolverMultistepScheduler`). Out: a `Plan` that remembers one tensor, the clean latents predicted the step before.

diffusers draws the cosine scheduler's noise from a Brownian tree (torchsde), on the device. We draw each step's noise from the
row's CPU generator instead: steps visit their intervals in order, so independent draws are the same process, a seed means the
same on every device, and nothing but diffusers would need that package. Next: `advance` multiplies by the tables.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import diffusers
import numpy as np
import torch

from darkroom.model_runner.engine import errors
from darkroom.model_runner.engine.plan import Plan, Table

ODE, SDE = "dpmpp_2m", "dpmpp_2m_sde"
COSINE = "CosineDPMSolverMultistepScheduler"

_COSINE_DEFAULTS = {
    "sigma_min": 0.3,
    "sigma_max": 500.0,
    "sigma_data": 1.0,
    "sigma_schedule": "exponential",
    "prediction_type": "v_prediction",
}


class _Levels(NamedTuple):
    before: Table
    """[steps] Standard deviation of the noise before each step."""
    after: Table


def default_name(config: Mapping[str, Any]) -> str:
    """Return the sampler that the saved scheduler stands for."""
    stochastic = config["_class_name"] == COSINE or config.get("algorithm_type") == "sde-dpmsolver++"
    return SDE if stochastic else ODE


def plan(name: str, steps: int, *, config: Mapping[str, Any]) -> Plan:
    """Return the table of `dpmpp_2m` or `dpmpp_2m_sde`; BadRequest names the field `sampler`."""
    if name not in (ODE, SDE):
        raise errors.BadRequest(f"sampler: {name} does not fit this model; {ODE} and {SDE} do")
    cosine = config["_class_name"] == COSINE
    known = {key: value for key, value in config.items() if not key.startswith("_")}
    scheduler = diffusers.EDMDPMSolverMultistepScheduler.from_config((_COSINE_DEFAULTS if cosine else {}) | known)
    if scheduler.config.solver_order > 2 or scheduler.config.get("thresholding"):
        raise errors.BadRequest(f"sampler: {name} knows neither thresholding nor a solver_order above 2")
    scheduler.set_timesteps(steps)
    sigmas: Table = scheduler.sigmas.double().numpy()
    timesteps = torch.atan(scheduler.sigmas[:-1]) / torch.pi * 2 if cosine else scheduler.timesteps
    levels = _Levels(sigmas[:-1], sigmas[1:])
    return Plan(
        sampler=name,
        timesteps=tuple(timesteps.tolist()),
        input_scales=tuple((1 / np.hypot(levels.before, scheduler.config.sigma_data)).tolist()),
        matrices=_matrices(levels, scheduler.config, stochastic=name == SDE),
        noise_scale=float(scheduler.init_noise_sigma),
        noising=np.stack([np.ones(steps), levels.before], axis=-1),
    )


def _matrices(levels: _Levels, config: Mapping[str, Any], *, stochastic: bool) -> Table:
    """Columns: latents, prediction, the clean latents predicted before, fresh noise."""
    skip, out = _preconditioning(levels.before, config)
    ratio = levels.after / levels.before
    keep = ratio**2 if stochastic else ratio
    fresh = levels.after * np.sqrt(1 - ratio**2) if stochastic else np.zeros_like(ratio)
    slope = _slopes(ratio, config, stochastic=stochastic)
    towards = 1 - keep + slope
    nothing = np.zeros_like(ratio)
    latents = np.stack([keep + towards * skip, towards * out, -slope, fresh], axis=-1)
    history = np.stack([skip, out, nothing, nothing], axis=-1)
    return np.stack([latents, history], axis=1)


def _preconditioning(sigmas: Table, config: Mapping[str, Any]) -> tuple[Table, Table]:
    """Return c_skip and c_out: clean latents = c_skip * latents + c_out * prediction."""
    data = config["sigma_data"]
    out = sigmas * data / np.hypot(sigmas, data)
    return data**2 / (sigmas**2 + data**2), out if config["prediction_type"] == "epsilon" else -out


def _slopes(ratio: Table, config: Mapping[str, Any], *, stochastic: bool) -> Table:
    """Return the weight of (clean - clean before) at each step; 0 where the step is one of first order."""
    steps = len(ratio)
    slopes = np.zeros(steps)
    if config["solver_order"] == 1:
        return slopes
    last_is_first_order = (
        config["final_sigmas_type"] == "zero"
        or config["euler_at_final"]
        or (config["lower_order_final"] and steps < 15)
    )
    for step in range(1, steps - last_is_first_order):
        length = -np.log(ratio[step]) * (2 if stochastic else 1)
        gone = 1 - np.exp(-length)
        weight = 0.5 * gone if config["solver_type"] == "midpoint" else 1 - gone / length
        slopes[step] = weight * np.log(ratio[step]) / np.log(ratio[step - 1])
    return slopes
