"""The state of one image, video or sound between two steps, and what a step predicts for a batch of them.

In: what a family's `prepare` computed. Out: everything needed to take the next step, here or elsewhere: plain tensors
and numbers, never changed in place, so that a failed step loses nothing. Next: `samplers` make the state after it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from darkroom.model_runner.engine.job import AdapterUse, Tier
from darkroom.model_runner.engine.plan import Plan


class BatchKey(NamedTuple):
    """States with equal keys can share a forward."""

    model: str
    task: str
    """The family's own word (`text`, `inpaint`, `edit 64x64`, `whole`): what makes inputs of one shape beside the size."""
    size: tuple[int, ...]
    """(width, height) of an image, (width, height, frames) of a video, () of a sound: a whole window is computed."""
    text_tokens: int
    guided: bool
    """Whether each step also predicts without the prompt."""
    precision: str = ""
    """Empty: the runner's own weights and every block; `high`, `draft`: what those tiers run (`tiers.precision`)."""

    @property
    def shape(self) -> str:
        """The size's name in step costs, heartbeats and estimates: `64x64`, `832x480x81`; `window` where there is none."""
        return "x".join(str(length) for length in self.size) or "window"


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """One image (or video, or sound) on its way; `step` of `steps_total` steps are done."""

    batch_key: BatchKey
    seed: int
    step: int
    plan: Plan
    """The sampler's table for this row."""
    guidance: float
    latents: Tensor
    """Float32, in the family's own layout, without a batch dimension."""
    conditioning: Mapping[str, Tensor]
    """Embeddings by the family's own names, without a batch dimension; shared by the images of a generation."""
    adapters: tuple[AdapterUse, ...]
    history: tuple[Tensor, ...] = ()
    """What the sampler remembers, each like `latents`; what is not there yet counts as zeros."""
    noise_rng: Tensor | None = None
    """State of the row's CPU generator, where the sampler draws noise at its steps."""
    cache: Mapping[str, Tensor] = field(default_factory=dict)
    """The row's feature cache (`step_cache`); empty when off."""
    cached_steps: int = 0
    """Those of the steps done that reused most of an earlier one."""
    tier: Tier = "LOSSLESS"

    @property
    def steps_total(self) -> int:
        """Steps from noise to picture."""
        return self.plan.steps

    @property
    def is_portable(self) -> bool:
        """Whether it can be gone on with in another process; not where a family keeps more of it than is in here."""
        return True


class Cached(NamedTuple):
    """What `step_cache` hands from one step of a row to its next."""

    tensors: Mapping[str, Tensor]
    is_reused: bool
    """Whether this step was one that reused."""


class Predictions(NamedTuple):
    """What the denoiser says of a batch, each [rows, ...] like the latents."""

    positive: Tensor
    negative: Tensor | None
    """Without the prompt; None where the batch is not guided."""
    caches: tuple[Cached, ...] = ()
    """One for each row, where the batch's rows keep feature caches."""

    @classmethod
    def of(cls, predicted: Tensor, *, rows: int) -> "Predictions":
        """Take what a forward returned, [rows, ...], or [2 * rows, ...] where negative prompts are stacked below prompts."""
        return cls(predicted[:rows], predicted[rows:] if len(predicted) > rows else None)
