"""What a generation costs besides its steps, as measured: its text and source pictures, decoding, its files.

In: what each finished generation took for them, from the engine. Out: a table of moving averages, one line for each (model,
size), for heartbeats. Next: the scheduler adds them to what the steps cost, in estimates, prices and predicted ends.
"""

from collections.abc import Iterable
from typing import NamedTuple

from darkroom.model_runner import step_cost

_GENERATIONS = 8
"""The average is over about so many: prompts differ in length, and some are remembered from before."""


class FixedCost(NamedTuple):
    """One line of the table."""

    model: str
    size: str
    """A bucket's name, `64x64`, `832x480x81`."""
    prepare_us: int
    """Device time of a generation before its first step."""
    decode_us: int
    """Device time of each of its outputs after the last step."""
    encode_us: int
    """Until an output's file is made, which is not the device's work."""


class Table:
    """Moving averages of generations; belongs to one thread."""

    def __init__(self, costs: Iterable[FixedCost] = ()) -> None:
        """Begin with what an earlier process measured."""
        self._costs = {(cost.model, cost.size): cost for cost in costs}
        self._measured = dict.fromkeys(self._costs, _GENERATIONS)

    def observe(self, cost: FixedCost) -> None:
        """Add one generation."""
        kind = cost.model, cost.size
        known = self._costs.get(kind, cost)
        self._measured[kind] = measured = min(self._measured.get(kind, 0) + 1, _GENERATIONS)
        if kind in self._costs:
            del self._costs[kind]  # so that the longest unseen stand in front
        while len(self._costs) >= step_cost.KINDS_MAX:
            unseen = next(iter(self._costs))
            del self._costs[unseen], self._measured[unseen]
        averages = [round(old + (new - old) / measured) for old, new in zip(known[2:], cost[2:], strict=True)]
        self._costs[kind] = FixedCost(*kind, *averages)

    def snapshot(self) -> tuple[FixedCost, ...]:
        """Return the table as it is now."""
        return tuple(self._costs.values())
