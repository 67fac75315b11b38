"""DDIM and LCM: jump to the clean picture that the prediction shows, and from there to the next noise level.

In: a request. Out: a `Plan`. Both read how much picture is left at a training timestep (alphas_cumprod). DDIM goes to the
next level along the predicted noise (eta 0), LCM with fresh noise. Next: `advance`.
"""

from typing import Any

import diffusers
import numpy as np

from darkroom.model_runner.engine.plan import Plan, Table
from darkroom.model_runner.engine.samplers import levels


def ddim(request: levels.Request) -> Plan:
    """Return DDIM steps, formula (12) of https://arxiv.org/abs/2010.02502 with eta 0."""
    scheduler = _schedule(diffusers.DDIMScheduler, request)
    timesteps = scheduler.timesteps.numpy()
    stride = scheduler.config["num_train_timesteps"] // scheduler.num_inference_steps
    alpha, sigma = levels.split(scheduler, timesteps)
    alpha_next, sigma_next = levels.split(scheduler, timesteps - stride)
    kind = scheduler.config["prediction_type"]
    a, b = levels.clean(request, kind, alpha=alpha, sigma=sigma)
    c, d = (1 - alpha * a) / sigma, -alpha * b / sigma  # noise = (latents - alpha * clean) / sigma
    matrices = np.stack([alpha_next * a + sigma_next * c, alpha_next * b + sigma_next * d, 0 * a], axis=-1)
    return _plan(request, scheduler, matrices)


def lcm(request: levels.Request) -> Plan:
    """Return the steps of a latent consistency model, https://arxiv.org/abs/2310.04378; the last adds no noise."""
    scheduler = _schedule(diffusers.LCMScheduler, request)
    timesteps = scheduler.timesteps.numpy()
    alpha, sigma = levels.split(scheduler, timesteps)
    a, b = levels.clean(request, scheduler.config["prediction_type"], alpha=alpha, sigma=sigma)
    scaled = timesteps * scheduler.config["timestep_scaling"]
    skip, out = 0.25 / (scaled**2 + 0.25), scaled / np.sqrt(scaled**2 + 0.25)
    alpha_next, sigma_next = np.append(alpha[1:], 1.0), np.append(sigma[1:], 0.0)
    matrices = np.stack([alpha_next * (out * a + skip), alpha_next * out * b, sigma_next], axis=-1)
    return _plan(request, scheduler, matrices)


def _schedule(scheduler_class: type, request: levels.Request) -> Any:
    if levels.is_flow(request.config):
        raise request.refusal("is not for flow-matching models")
    asked = request.config.get("clip_sample") and "clip_sample" not in request.config.get("_use_default_values", ())
    if asked:
        raise request.refusal("cannot clip the picture, which this model's scheduler asks for")
    return levels.schedule(scheduler_class, request, overrides={"clip_sample": False})


def _plan(request: levels.Request, scheduler: Any, rows: Table) -> Plan:
    timesteps = scheduler.timesteps.numpy()
    return Plan(
        sampler=request.sampler,
        timesteps=tuple(timesteps.astype(float).tolist()),
        input_scales=(1.0,) * len(timesteps),
        matrices=rows[:, None, :],
        noise_scale=1.0,
        noising=np.stack(levels.split(scheduler, timesteps), axis=-1),
    )
