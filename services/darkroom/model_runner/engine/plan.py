"""What a sampler does, as a table of numbers: every sampler here is a linear recurrence.

In: the matrices that `euler`, `ddim`, `dpmpp`, `unipc`, `pndm` and `edm` compute. Out: a `Plan`, which a state carries with it: plain
numbers that can be saved. Next: `state` holds it, and `samplers.advance` multiplies by it.
"""

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.float64]


def _no_starts() -> Table:
    return np.zeros((0, 0, 0, 0))


@dataclass(frozen=True, eq=False, kw_only=True)
class Plan:
    """One row's way from noise to picture. H is the number of tensors that the sampler remembers."""

    sampler: str
    """Its name, one of `samplers.NAMES`."""
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
    starts: Table = field(default_factory=_no_starts)
    """[K, steps, 1 + H, 2 + H + 1] A multi-step sampler starts with low order: `starts[k, i]` is the matrix of step i where it
    is the k-th after the first. Only `after` needs it."""

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
        """Whether any step adds fresh noise, so that the state needs a generator."""
        return bool(self.matrices[:, :, -1].any())

    def after(self, first_step: int) -> "Plan":
        """Return the rest of the plan from `first_step` on, for a picture that enters there with no history."""
        matrices = self.matrices[first_step:].copy()
        for index in range(min(len(self.starts), len(matrices))):
            matrices[index] = self.starts[index, first_step + index]
        return dataclasses.replace(
            self,
            timesteps=self.timesteps[first_step:],
            input_scales=self.input_scales[first_step:],
            matrices=matrices,
            noising=self.noising[first_step:],
            starts=self.starts[:, first_step:],
        )
