"""What one denoising step of a batch costs, as measured.

In: the busy time of every slice, from the engine. Out: a table of moving averages, one row for each (model, size,
guidance, rows), for heartbeats, estimates and (later) the decision to batch.
"""

from typing import NamedTuple

_FASTER_WEIGHT = 0.2
"""Of a slice that was faster than the average: ten of them forget 90 % of a cold start."""

_SLOWER_WEIGHT = 0.02
"""Of a slower one: the table tells what the device can do, `slowdown` tells what others on it take away meanwhile."""


class Shape(NamedTuple):
    """What makes two slices cost the same."""

    model: str
    size: str
    """A bucket's name, `64x64`, `832x480x81`."""
    guided: bool
    """Two predictions a row, with and without the prompt."""
    rows: int


class StepCost(NamedTuple):
    """One row of the table: a step of the whole batch, not of a row."""

    shape: Shape
    step_us: int
    measured: int
    """Number of slices behind the average."""


class Table:
    """Moving averages of slices; belongs to one thread."""

    def __init__(self) -> None:
        self._rows: dict[Shape, StepCost] = {}
        self._slowdown = 1.0

    def observe(self, shape: Shape, took_us: int) -> None:
        """Add one slice of one step."""
        known = self._rows.get(shape, StepCost(shape, took_us, 0))
        weight = _FASTER_WEIGHT if took_us < known.step_us else _SLOWER_WEIGHT
        step_us = round(known.step_us + weight * (took_us - known.step_us))
        self._rows[shape] = StepCost(shape, step_us, known.measured + 1)
        self._slowdown += _FASTER_WEIGHT * (took_us / max(known.step_us, 1) - self._slowdown)

    @property
    def slowdown(self) -> float:
        """Return how much longer slices take of late than the table says, at least 1.0."""
        return max(self._slowdown, 1.0)

    def snapshot(self) -> tuple[StepCost, ...]:
        """Return the table as it is now."""
        return tuple(self._rows.values())
