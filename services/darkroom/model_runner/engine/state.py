"""The state of one image between two steps, and what a step predicts for a batch of them.

In: what a family's `prepare` computed. Out: everything needed to take the next step, here or elsewhere: plain tensors
and numbers, never changed in place, so that a failed step loses nothing. Next: `samplers` make the state after it.
"""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from darkroom.model_runner.engine.job import AdapterUse


class BatchKey(NamedTuple):
    """States with equal keys can share a forward."""

    model: str
    width: int
    height: int
    text_tokens: int
    guided: bool
    """Whether each step also predicts without the prompt."""


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """One image on its way; `step` steps of `len(sigmas) - 1` are done."""

    batch_key: BatchKey
    seed: int
    step: int
    sigmas: tuple[float, ...]
    """Noise level before each step, and after the last one."""
    guidance: float
    latents: Tensor
    """Float32, in the family's own layout, without a batch dimension."""
    conditioning: dict[str, Tensor]
    """Embeddings by the family's own names, without a batch dimension; shared by the images of a generation."""
    adapters: tuple[AdapterUse, ...]

    @property
    def steps_total(self) -> int:
        """Steps from noise to picture."""
        return len(self.sigmas) - 1


class Predictions(NamedTuple):
    """What the denoiser says of a batch, each [rows, ...] like the latents."""

    positive: Tensor
    negative: Tensor | None
    """Without the prompt; None where the batch is not guided."""
