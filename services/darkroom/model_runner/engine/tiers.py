"""Quality tiers: which one a generation gets, and how its steps are computed then.

In: jobs that ask for a tier, then batches of states. Out: the tier that is really made, which is recorded with the result,
and predictions. LOSSLESS is the reference. HIGH runs the denoiser's lighter copy (`quantize`), DRAFT skips most blocks of
steps that change little (`step_cache`); where a model or a device cannot do that, the generation is made LOSSLESS. A copy
has no LoRAs, so generations with adapters are made LOSSLESS in place of HIGH. Next: `step_cache`.
"""

from collections.abc import Callable, Sequence

from torch import nn

from darkroom.model_runner.engine import quantize, step_cache
from darkroom.model_runner.engine.job import Job, Tier
from darkroom.model_runner.engine.state import Predictions, State

HIGH_PSNR_DB_MIN = 35.0
"""What a picture of tier HIGH has at least in common with the same one of LOSSLESS: the median over pocket-image's prompts."""

Forward = Callable[[nn.Module, Sequence[State]], Predictions]


class Tiers:
    """The tiers of one model's denoiser."""

    def __init__(self, denoiser: nn.Module) -> None:
        self._denoiser = denoiser
        self._lighter: nn.Module | None = None  # made for the first generation that asks for it
        self._cache = step_cache.StepCache(denoiser)
        weights = next(denoiser.parameters(), None)
        self._has_lighter = weights is not None and quantize.is_possible(weights.device, weights.dtype)

    def granted(self, job: Job) -> Tier:
        """Return the tier in which this model makes the job here."""
        if job.tier == "HIGH" and self._has_lighter and not job.adapters:
            return "HIGH"
        if job.tier == "DRAFT" and self._cache.is_supported:
            return "DRAFT"
        return "LOSSLESS"

    def lacks(self, tier: Tier) -> bool:
        """Whether something must be made, by `complete`, before steps of this tier."""
        return tier == "HIGH" and self._lighter is None

    def complete(self) -> None:
        """Make it: the lighter copy, from weights that are on the device."""
        self._light()

    def denoise(self, states: Sequence[State], forward: Forward) -> Predictions:
        """Predict for states with equal batch keys, through the denoiser of their tier."""
        if states[0].tier == "HIGH":
            return forward(self._light(), states)
        return self._cache.denoise(states, lambda rows: forward(self._denoiser, rows))

    def release(self) -> None:
        """Drop the lighter copy, for memory's sake; it is made again when a batch needs it."""
        self._lighter = None

    def _light(self) -> nn.Module:
        if self._lighter is None:
            self._lighter = quantize.lighter(self._denoiser)
        return self._lighter


def precision(tier: Tier) -> str:
    """Return the word that keeps batches, and so step costs, of this tier apart: empty for LOSSLESS."""
    return "" if tier == "LOSSLESS" else tier.lower()
