"""The stages in which pocket-image learns to make latents: first where things belong, then how they look.

In: nothing. Out: a table. Next: `flow` works through it. A prompt has one picture (a grid of half the picture's side
leaves each thing one place), which is what lets 2.3 M parameters learn shapes within an hour: with things anywhere they
were still blobs after 4,500 steps, on nine places shapes stood after 500 more. So a seed decides little. Where there is most
noise is where things are bound to their words, so that comes first.
"""

from typing import NamedTuple

import numpy as np


class Stage(NamedTuple):
    """What is shown until which step, at which times, and how fast it is learnt.

    `scenes` pictures from `scenes_seed` are shown, with centres at multiples of `grid_px`. Times are
    sigmoid(normal(times_centre, times_spread)): where things lie is decided above 0.9, which (0, 1) draws in 1 case
    of 70 and (1.5, 1.3) in 1 of 3. The learning rate rises from `rate_from` for `warmup` steps to its peak and falls
    along half a cosine that would end at `rate_until`. `label_weight` is the weight of the words' labels in the loss.
    """

    until: int
    grid_px: int
    scenes: int
    scenes_seed: int
    times_centre: float
    times_spread: float
    rate_peak: float
    rate_from: int
    rate_until: int
    warmup: int
    label_weight: float = 0.0

    def rate(self, step: int) -> float:
        """Learning rate at a step."""
        return self.rate_peak * rate(step - self.rate_from, steps=self.rate_until - self.rate_from, warmup=self.warmup)


def rate(step: int, *, steps: int, warmup: int) -> float:
    """Share of the peak rate at a step: a linear rise, then half a cosine down to nothing."""
    rise = min(1.0, (step + 1) / warmup)
    return rise * 0.5 * (1 + float(np.cos(np.pi * min(1.0, step / steps))))


# It ends before the rate does: at step 6,000 the averaged weights had all of 192 unseen prompts right.
STAGES = (
    Stage(
        until=3_000,
        grid_px=32,
        scenes=40_000,
        scenes_seed=1,
        times_centre=1.5,
        times_spread=1.3,
        rate_peak=1.5e-3,
        rate_from=0,
        rate_until=8_000,
        warmup=200,
        label_weight=0.1,
    ),
    Stage(
        until=6_000,
        grid_px=32,
        scenes=40_000,
        scenes_seed=2,
        times_centre=0.5,
        times_spread=1.2,
        rate_peak=1.5e-3,
        rate_from=0,
        rate_until=8_000,
        warmup=200,
        label_weight=0.1,
    ),
)
