"""How much less urgent rows may slow urgent ones whose steps they share.

In: urgent rows that are about to take a step together. Out: how many times longer that step may be for the sake of others. A
generation may take a little longer than the longest one of its kind takes alone; so a short one leaves much room for others,
and a long one, or one that has waited, nearly none. Next: `slices` sizes the batch.
"""

import collections
from collections.abc import Sequence

from darkroom.model_runner import step_cost
from darkroom.model_runner.engine.generation import Row
from darkroom.model_runner.engine.state import BatchKey

_SLOWER_MAX = 4.0
"""A short one's step is never slowed by more: simulated, more helped nobody's 95th percentile."""

_FORGET = 0.9999
"""Of the longest one's time, at each step: what has not been seen for 10,000 steps counts a third."""


class Hurry:
    """What is known of urgent generations; belongs to the engine's thread."""

    def __init__(self, slower_max: float) -> None:
        """Let the longest ones take `slower_max` times as long as alone."""
        self._slower_max = slower_max
        self._longest_us: collections.OrderedDict[tuple[BatchKey, int], float] = collections.OrderedDict()

    def slower_max(self, rows: Sequence[Row], *, lone_us: float, now_us: int) -> float:
        """Return how many times longer the next step of these rows, whose lone steps take `lone_us`, may be."""
        key = rows[0].state.batch_key, rows[0].generation.job.priority
        longest_us = max(row.state.steps_total * lone_us for row in rows)
        longest_us = self._longest_us[key] = max(longest_us, self._longest_us.get(key, 0.0) * _FORGET)
        self._longest_us.move_to_end(key)
        if len(self._longest_us) > step_cost.KINDS_MAX:
            self._longest_us.popitem(last=False)
        rooms = (self._room(row, longest_us, lone_us, now_us) for row in rows)
        return min(max(min(rooms), 1.0), _SLOWER_MAX)

    def _room(self, row: Row, longest_us: float, lone_us: float, now_us: int) -> float:
        left_us = longest_us * self._slower_max - (now_us - row.generation.arrived_us)
        return left_us / ((row.state.steps_total - row.state.step) * lone_us)
