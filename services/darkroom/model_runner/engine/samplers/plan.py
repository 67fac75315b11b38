"""What a sampler does, as a table of numbers: every sampler is a linear recurrence.

In: a sampler's name, a number of steps, and the model's own scheduler configuration. Out: a `Plan`. The time table is
computed by diffusers' scheduler, which is then thrown away; the matrices are ours. Next: `advance` multiplies by them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt

from darkroom.model_runner.engine import errors

Table = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Plan:
    """One row's way from noise to picture. H is the number of tensors that the sampler remembers."""

    sampler: str
    """Its name: `flow_euler`."""
    timesteps: tuple[float, ...]
    """[steps] What the denoiser is told, on the training scale, 0 to 1000."""
    input_scales: tuple[float, ...]
    """[steps] The denoiser sees the latents times this."""
    matrices: Table
    """[steps, 1 + H, 2 + H + 1]. Rows: the next latents, the next history. Columns: latents, prediction (after guidance),
    history, fresh noise."""
    noise_scale: float
    """Pure noise enters times this."""
    noising: Table
    """[steps, 2] A clean picture enters before step i as `noising[i, 0] * clean + noising[i, 1] * noise`."""

    @property
    def steps(self) -> int:
        """Steps from noise to picture."""
        return len(self.timesteps)

    @property
    def history(self) -> int:
        """H."""
        return int(self.matrices.shape[1]) - 1

    @property
    def draws_noise(self) -> bool:
        """Whether any step adds fresh noise."""
        return bool(self.matrices[:, :, -1].any())

    def after(self, first_step: int) -> "Plan":
        """Return the rest of the plan from `first_step` on, for a picture that enters there."""
        return Plan(
            sampler=self.sampler,
            timesteps=self.timesteps[first_step:],
            input_scales=self.input_scales[first_step:],
            matrices=self.matrices[first_step:],
            noise_scale=self.noise_scale,
            noising=self.noising[first_step:],
        )


def plan(
    name: str,
    steps: int,
    *,
    config: Mapping[str, Any],
    mu: float | None = None,
    sigmas: Sequence[float] | None = None,
) -> Plan:
    """Return the table of a sampler for a model whose scheduler has `config`; BadRequest names the field `sampler`."""
    if name != "flow_euler":
        raise errors.BadRequest(f"sampler: there is no sampler {name!r} for this model")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(config)
    scheduler.set_timesteps(steps if sigmas is None else None, sigmas=None if sigmas is None else list(sigmas), mu=mu)
    levels = scheduler.sigmas.double().numpy()
    ones = np.ones(len(levels) - 1)
    return Plan(
        sampler=name,
        timesteps=tuple(scheduler.timesteps.tolist()),
        input_scales=tuple(ones.tolist()),
        matrices=np.stack([ones, np.diff(levels), 0 * ones], axis=-1)[:, None, :],
        noise_scale=1.0,
        noising=np.stack([1 - levels[:-1], levels[:-1]], axis=-1),
    )
