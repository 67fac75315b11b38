"""What one denoising step of a batch costs, as measured.

In: the busy time of every slice, from the engine. Out: a table of moving averages, one row for each (model, size,
guidance, rows), for heartbeats, estimates and (later) the decision to batch.
"""

from typing import NamedTuple

_NEWEST_WEIGHT = 0.2
"""Of the newest measurement in the average: ten slices forget 90 % of a cold start."""


class Shape(NamedTuple):
    """What makes two slices cost the same."""

    model: str
    width: int
    height: int
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

    def observe(self, shape: Shape, took_us: int) -> None:
        """Add one slice of one step."""
        known = self._rows.get(shape, StepCost(shape, took_us, 0))
        step_us = round(known.step_us + _NEWEST_WEIGHT * (took_us - known.step_us))
        self._rows[shape] = StepCost(shape, step_us, known.measured + 1)

    def snapshot(self) -> tuple[StepCost, ...]:
        """Return the table as it is now."""
        return tuple(self._rows.values())
