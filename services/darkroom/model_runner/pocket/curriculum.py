"""The stages in which pocket-image learns to make latents: from things anywhere to things on one place.

In: nothing. Out: a table. Next: `flow` works through it. Narrowing where things lie is what makes 2.3 M parameters learn
shapes within an hour: with things anywhere they were still blobs after 4,500 steps; on nine places shapes stood after
500 more. In the last stage a prompt has one picture, so a seed decides little. The rates are those of a training that was watched and bent while it ran, written down as they were.
"""

from typing import NamedTuple

import numpy as np


class Stage(NamedTuple):
    """What is shown until which step, at which times, and how fast it is learnt.

    `scenes` pictures from `scenes_seed` are shown, with centres at multiples of `grid_px`. Times are
    sigmoid(normal(times_centre, times_spread)): where things lie is decided above 0.9, which (0, 1) draws in 1 case
    of 70 and (0.7, 1.2) in 1 of 9. The learning rate rises from `rate_from` for `warmup` steps to its peak and falls
    along half a cosine that would end at `rate_until`.
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

    def rate(self, step: int) -> float:
        """Learning rate at a step."""
        return self.rate_peak * rate(step - self.rate_from, steps=self.rate_until - self.rate_from, warmup=self.warmup)


def rate(step: int, *, steps: int, warmup: int) -> float:
    """Share of the peak rate at a step: a linear rise, then half a cosine down to nothing."""
    rise = min(1.0, (step + 1) / warmup)
    return rise * 0.5 * (1 + float(np.cos(np.pi * min(1.0, step / steps))))


STAGES = (
    Stage(2_750, 1, 40_000, 1, 0.0, 1.0, 1.2e-3, 0, 5_500, 200),
    Stage(4_500, 1, 40_000, 1, 0.7, 1.2, 1.2e-3, 0, 7_000, 200),
    Stage(5_250, 8, 40_000, 1, 0.7, 1.2, 1.2e-3, 0, 6_500, 200),
    Stage(8_000, 16, 30_000, 4, 0.7, 1.2, 2.0e-3, 5_250, 8_000, 100),
    Stage(10_600, 32, 16_000, 6, 0.3, 1.1, 1.5e-3, 8_000, 10_600, 100),
)
