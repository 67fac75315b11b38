"""Time tables: which noise levels a model passes on its way from noise to picture.

In: the scheduler configuration that a model was saved with, a number of steps, and the diffusers scheduler that a sampler
stands for. Out: `Levels` in float64, and what a prediction says of the clean picture at a level. The scheduler is used
for its table alone and thrown away. Next: `euler`, `ddim`, `dpmpp`, `unipc` and `pndm` make matrices of
them (`edm` reads its own scheduler).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from darkroom.model_runner.engine import errors
from darkroom.model_runner.engine.plan import Table

Config = Mapping[str, Any]


class Request(NamedTuple):
    """What is asked of a sampler."""

    sampler: str
    steps: int
    config: Config
    """The model's own scheduler configuration."""
    mu: float | None
    """The shift of models whose noise levels depend on the size of the picture."""
    sigmas: Sequence[float] | None
    """Flow models only: noise levels before shifting, instead of the scheduler's own spacing."""

    def refusal(self, why: str) -> errors.BadRequest:
        """Return the error that says why this sampler does not fit this model."""
        return errors.BadRequest(f"sampler: {self.sampler} {why}")


class Levels(NamedTuple):
    """The noise levels of one run."""

    config: Config
    """Complete, with the scheduler's defaults."""
    timesteps: Table
    """[steps] What the denoiser is told."""
    sigmas: Table
    """[steps + 1] Noise per picture before each step and after the last; for flow, noise in noise + picture = 1."""
    noise_scale: float


class Curve(NamedTuple):
    """What the latents hold at each level, each [steps + 1]."""

    alpha: Table
    """Picture."""
    sigma: Table
    """Noise."""
    log_ratio: Table
    """log(alpha / sigma), the time in which multi-step samplers count; infinite where no noise is left."""


class _Scheduler(Protocol):
    """What is read of a diffusers scheduler."""

    config: Config
    timesteps: Any
    sigmas: Any
    init_noise_sigma: Any

    def set_timesteps(self, num_inference_steps: int | None, **options: Any) -> None: ...


def schedule(scheduler_class: Any, request: Request, *, overrides: Config, **options: Any) -> Any:
    """Return a scheduler of `scheduler_class` with its table computed; BadRequest for what it does not support."""
    try:
        scheduler: _Scheduler = scheduler_class.from_config({**request.config, **overrides})
        if scheduler.config.get("thresholding"):
            raise request.refusal("cannot threshold, which this model's scheduler asks for")
        scheduler.set_timesteps(None if "sigmas" in options else request.steps, **options)
    except (ValueError, ImportError, NotImplementedError) as error:
        raise request.refusal(f"cannot take {request.steps} steps with this model: {error}") from error
    return scheduler


def read(scheduler: _Scheduler) -> Levels:
    """Return the levels of a scheduler that keeps them as `sigmas`."""
    return Levels(
        config=scheduler.config,
        timesteps=scheduler.timesteps.double().numpy(),
        sigmas=scheduler.sigmas.double().numpy()[: len(scheduler.timesteps) + 1],
        noise_scale=float(getattr(scheduler, "init_noise_sigma", 1.0)),
    )


def shift(request: Request) -> dict[str, float]:
    """Return `mu` as an option of `set_timesteps` where the model shifts by size, and nothing elsewhere."""
    if not request.config.get("use_dynamic_shifting"):
        return {}
    if request.mu is None:
        raise ValueError("a model that shifts its noise levels by size needs mu")
    return {"mu": request.mu}


def is_flow(config: Config) -> bool:
    """Return whether the model was trained by flow matching."""
    return bool(
        "shift" in config or config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    )


def as_flow_sigmas(config: Config) -> dict[str, Any]:
    """Return how a multi-step scheduler spells what this flow-matching model's configuration says."""
    if config.get("use_flow_sigmas"):
        return {"use_flow_sigmas": True}
    return {
        "use_flow_sigmas": True,
        "prediction_type": "flow_prediction",
        "flow_shift": config["shift"],
        "use_karras_sigmas": False,
        "use_exponential_sigmas": False,
        "use_beta_sigmas": False,
    }


def curve(levels: Levels) -> Curve:
    """Return the way of a run whose latents hold alpha picture and sigma noise, as the multi-step samplers see it."""
    sigma = levels.sigmas
    if levels.config.get("use_flow_sigmas"):
        alpha = 1 - sigma
    else:
        alpha = 1 / np.sqrt(sigma**2 + 1)
        sigma = sigma * alpha
    return Curve(alpha, sigma, np.log(alpha) - np.log(sigma))


def split(scheduler: Any, timesteps: Any) -> tuple[Table, Table]:
    """Return how much picture and noise latents hold at training timesteps, of a scheduler that counts in those.

    Below 0 lies what the scheduler takes for the end.
    """
    table, final = scheduler.alphas_cumprod.double().numpy(), scheduler.final_alpha_cumprod.double().item()
    kept = np.where(timesteps >= 0, table[np.clip(timesteps, 0, len(table) - 1)], final)
    return np.sqrt(kept), np.sqrt(1 - kept)


def clean(request: Request, prediction_type: str, *, alpha: Any, sigma: Any) -> tuple[Any, Any]:
    """Return (a, b): latents that hold `alpha` picture and `sigma` noise show a * latents + b * prediction."""
    ones = np.ones_like(alpha)
    match prediction_type:
        case "epsilon":
            return 1 / alpha, -sigma / alpha
        case "sample":
            return 0 * ones, ones
        case "v_prediction":
            return alpha, -sigma
        case "flow_prediction":
            return ones, -sigma
    raise request.refusal(f"does not support prediction_type {prediction_type!r}")
