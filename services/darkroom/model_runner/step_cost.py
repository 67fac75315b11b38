"""What one denoising step of a batch costs, as measured, and how many rows pay off.

In: the busy time of every step, from the engine. Out: a table of moving averages, one line for each (model, size,
guidance, rows), for heartbeats and estimates; and the number of rows to run together: another row joins while the batch
becomes longer by less than a lone row's step. Sizes of batches that were never run are
tried by doubling, and what the table says against them is measured again from time to time. Next: `batch` uses the number.
"""

import collections
from collections.abc import Iterable
from typing import NamedTuple

_FASTER_WEIGHT = 0.5
"""Of a step that was faster than the average: nothing makes a step faster than the device can, so it counts."""

_SLOWER_WEIGHT = 0.02
"""Of a slower one: the table tells what the device can do, `slowdown` tells what others on it take away meanwhile."""

_SLOWDOWN_WEIGHT = 0.2
"""Of one step: a neighbour that comes or goes is seen after about five."""

_SHARE_WEIGHT = 0.02
"""Of one step's share: the average is over about two generations, whose first steps reuse nothing."""

_BELIEVED = 3
"""A number is believed after so many measurements: the first was perhaps a cold start, another disturbed."""

_AGAIN_STEPS = 200
"""After so many steps of a shape, what decides its batches is measured again: 0.5 % of the work, should it be in vain."""

_NOISE = 1.15
"""Times a lone row's step that another row may seem to cost, and times dearer that rows may seem in the larger batch. On a
shared machine less than that may be the neighbours' doing: without it 64x64 stayed at batches of 2, at 0.8 of what 8 gave."""

KINDS_MAX = 512
"""Kinds of rows of which anything is remembered, those seen last: callers choose sizes, and heartbeats carry the tables."""

_UNHURRIED_MAX = 64
"""Times as many rows at most are looked at: a table on which more rows never take longer would have no end."""


class Shape(NamedTuple):
    """What makes two steps cost the same."""

    model: str
    size: str
    """A bucket's name, `64x64`, `832x480x81`."""
    guided: bool
    """Two predictions a row, with and without the prompt."""
    rows: int
    variant: str = ""
    """What else makes them differ: the family's task, the weights' precision."""


class StepCost(NamedTuple):
    """One line of the table: a step of the whole batch, not of a row."""

    shape: Shape
    step_us: int
    measured: int
    """Number of steps behind the average."""
    share: float = 1.0
    """What a step takes of it on the average: less where some steps reuse most of an earlier one."""


class _Curve:
    """The costs of one kind of row, by how many run together."""

    def __init__(self) -> None:
        self.costs: dict[int, StepCost] = {}
        self.share = 1.0
        """What a step takes of its cost on the average."""
        self.steps = 0
        self._seen_at: dict[int, int] = {}

    def observe(self, shape: Shape, took_us: int, *, slowdown: float) -> float:
        """Add a measurement; return how much slower than expected it was.

        A trial counts as what it would have been, were the device not as slow as of late: else the few of a size
        that is seldom run would look worse beside the many of another. For the same reason it says nothing of slowness.
        """
        trial = self.is_trial(shape.rows)
        self.steps += 1
        self._seen_at[shape.rows] = self.steps
        step_us = took_us / slowdown if trial else took_us
        known = self.costs.get(shape.rows) or StepCost(shape, max(round(step_us), 1), 0)
        average_us = known.step_us + _weight(known, step_us) * (step_us - known.step_us)
        self.costs[shape.rows] = StepCost(shape, max(round(average_us), 1), known.measured + 1)
        return slowdown if trial else took_us / known.step_us

    def rows_worth(self, available: int) -> int:
        """Return how many of `available` rows to run together."""
        if self.is_trial(1):
            return 1
        lone_us, good, bad, smaller = self.costs[1].step_us, 1, 0, 1
        for rows in sorted(self.costs)[1:]:
            longer_us = self.costs[rows].step_us - self.costs[good].step_us
            dearer = self.costs[rows].step_us / rows / (self.costs[good].step_us / good)  # apiece
            if longer_us < (rows - good) * lone_us * _NOISE and dearer < _NOISE:
                good, bad, smaller = rows, 0, good
            elif self.costs[rows].measured >= _BELIEVED and not self._is_stale(rows):
                bad = bad or rows
        if self._is_stale(smaller):
            return min(available, smaller)
        return min(available, good if bad else good * 2)

    def cost_us(self, rows: int) -> float:
        """Return what a step of so many rows takes, between and beyond the measured ones along straight lines."""
        known = sorted(self.costs)
        below = max((size for size in known if size <= rows), default=known[0])
        above = min((size for size in known if size >= rows), default=known[-1])
        below_us, above_us = self.costs[below].step_us, self.costs[above].step_us
        if below < above:
            return below_us + (above_us - below_us) * (rows - below) / (above - below)
        return below_us * max(rows / below, 1.0)

    def is_trial(self, rows: int) -> bool:
        """Whether a step of so many rows would be run to measure it."""
        return rows not in self.costs or self.costs[rows].measured < _BELIEVED or self._is_stale(rows)

    def _is_stale(self, rows: int) -> bool:
        return self.steps - self._seen_at.get(rows, 0) >= _AGAIN_STEPS


class Table:
    """Moving averages of steps; belongs to one thread."""

    def __init__(self, costs: Iterable[StepCost] = ()) -> None:
        """Begin with what an earlier process measured."""
        self._curves: collections.OrderedDict[Shape, _Curve] = collections.OrderedDict()  # longest unused first
        self._slowdown = 1.0
        for cost in costs:
            curve = self._curve(cost.shape)
            curve.costs[cost.shape.rows], curve.share = cost, cost.share

    def observe(self, shape: Shape, took_us: int) -> None:
        """Add one step."""
        slower = self._curve(shape).observe(shape, took_us, slowdown=self.slowdown)
        self._slowdown += _SLOWDOWN_WEIGHT * (slower - self._slowdown)

    def observe_share(self, shape: Shape, took_us: int, *, reused: bool) -> None:
        """Add a step of a kind whose steps may reuse; one that did says nothing of what a whole step costs."""
        if not reused:
            self.observe(shape, took_us)
        curve = self._curve(shape)
        share = min(took_us / max(curve.cost_us(shape.rows), 1), 1.0) if reused and curve.costs else 1.0
        curve.share += _SHARE_WEIGHT * (share - curve.share)

    @property
    def slowdown(self) -> float:
        """Return how much longer steps take of late than the table says, at least 1.0."""
        return max(self._slowdown, 1.0)

    def cost_us(self, shape: Shape) -> float:
        """Return what a step of this shape takes, guessed from other numbers of rows if need be; 0 if nothing is known."""
        curve = self._curve(shape)
        return curve.cost_us(shape.rows) if curve.costs else 0.0

    def rows_worth(self, shape: Shape, available: int) -> int:
        """Return how many of `available` rows like `shape` (whose own `rows` do not count) to run together."""
        return self._curve(shape).rows_worth(available)

    def is_trial(self, shape: Shape) -> bool:
        """Whether a step of this shape is run to measure it, so that it should be asked again after it."""
        return self._curve(shape).is_trial(shape.rows)

    def rows_unhurried(self, shape: Shape, rows: int, *, slower_max: float) -> int:
        """Return how many rows take at most `slower_max` times as long as `rows` do; at least `rows`."""
        curve = self._curve(shape)
        if not curve.costs:
            return rows
        limit_us, more = curve.cost_us(rows) * slower_max, rows
        while more < rows * _UNHURRIED_MAX and curve.cost_us(more + 1) <= limit_us:
            more += 1
        return more

    def snapshot(self) -> tuple[StepCost, ...]:
        """Return the table as it is now, the kinds that were not seen for longest first."""
        return tuple(
            cost if cost.share == curve.share else cost._replace(share=curve.share)
            for curve in self._curves.values()
            for cost in curve.costs.values()
        )

    def _curve(self, shape: Shape) -> _Curve:
        kind = shape._replace(rows=0)
        curve = self._curves.setdefault(kind, _Curve())
        self._curves.move_to_end(kind)
        if len(self._curves) > KINDS_MAX:
            self._curves.popitem(last=False)
        return curve


def _weight(known: StepCost, step_us: float) -> float:
    if step_us >= known.step_us:
        return _SLOWER_WEIGHT
    return _FASTER_WEIGHT if known.measured >= _BELIEVED else 1.0
