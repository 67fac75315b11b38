"""Slices: some rows with equal batch keys take their next step together.

In: the rows that `batch` picked. Out: their states one step further, the step's cost for the table, progress for who
waits. A slice is several such steps for the same rows; it ends early when anybody came or went. Next: `finishing`, for
the rows whose steps are done.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

from darkroom.model_runner import batch, step_cost
from darkroom.model_runner.engine import saving, together
from darkroom.model_runner.engine.families import Family
from darkroom.model_runner.engine.floor import Floor
from darkroom.model_runner.engine.generation import Row
from darkroom.model_runner.engine.state import BatchKey, State


class Slice(NamedTuple):
    """Who steps, and until when if nothing happens."""

    rows: list[Row]
    steps_left: int
    until_us: int


def key(row: Row) -> Hashable:
    """Return what rows that step together have in common; a suspect of killing runners shares with nobody."""
    job = row.generation.job
    return "step", row.state.batch_key, job.key if job.solo else ""


def shape(batch_key: BatchKey, rows: int) -> step_cost.Shape:
    """Return a batch's line in the table of step costs."""
    variant = " ".join(word for word in (batch_key.task, batch_key.precision) if word)
    return step_cost.Shape(batch_key.model, batch_key.shape, batch_key.guided, rows, variant)


def size(floor: Floor, rows: Sequence[Row], levels: Sequence[batch.Level]) -> int:
    """Return how many of these rows step together, the leader in front; `levels` say how urgent each is."""
    alike = shape(rows[0].state.batch_key, 1)
    peers = [row for row, level in zip(rows, levels, strict=True) if level <= levels[0]]
    lone_us = floor.step_costs.cost_us(alike)
    slower_max = floor.hurry.slower_max(peers, lone_us=lone_us, now_us=floor.now_us()) if lone_us else 1.0
    return floor.size(floor.step_costs, alike, key(rows[0]), levels, slower_max=slower_max)


def begin(floor: Floor, rows: list[Row]) -> Slice:
    """Return a slice that has not run yet; one that tries a batch size is one step."""
    floor.stirred = False
    trial = floor.step_costs.is_trial(shape(rows[0].state.batch_key, len(rows)))
    return Slice(rows, 1 if trial else floor.config.slice_steps_max, floor.now_us() + floor.config.slice_us_max)


def goes_on(floor: Floor, slice_: Slice) -> bool:
    """Whether the same rows step again without asking who is next."""
    return not floor.stirred and slice_.steps_left > 0 and floor.now_us() < slice_.until_us


def step(floor: Floor, slice_: Slice) -> Slice:
    """Run one step; return the rest of the slice."""
    rows = slice_.rows
    batch_key = rows[0].state.batch_key
    family = floor.family(batch_key.model)
    if family.tiers.lacks(rows[0].state.tier):
        _complete(floor, family)
    tried: list[int] = []

    def forward(some: list[Row]) -> Sequence[State]:
        tried.append(len(some))
        states = [row.state for row in some]
        return family.advance(states, family.denoise(states))

    moved = together.run(floor, rows, forward, generation_of=lambda row: row.generation, key=key(rows[0]))
    if len(tried) == 1 and moved:
        _measure(floor, moved)
    for row, state, share_us in moved:
        if floor.charge(row.generation, "denoise", share_us):
            row.state, row.waiting_since_us = state, floor.now_us()
            row.generation.stepped(row.image, state)
            floor.stirred |= row.is_done
    _report(floor, [row for row, _, _ in moved])
    return slice_._replace(steps_left=slice_.steps_left - 1)


def _complete(floor: Floor, family: Family) -> None:
    """Have made what the tier needs, at the platform's expense; if it cannot be, the step tries again."""
    started_us = floor.device_us()
    try:
        family.tiers.complete()
    except Exception as error:
        saving.outlive(error, "the copy for tier HIGH cannot be made")
    finally:
        floor.account.platform(floor.device_us() - started_us)


def _measure(floor: Floor, moved: Sequence[together.Done[Row, State]]) -> None:
    batch_key, took_us = moved[0].item.state.batch_key, sum(done.share_us for done in moved)
    if batch_key.precision == "draft":
        reused = any(done.result.cached_steps > done.item.state.cached_steps for done in moved)
        floor.step_costs.observe_share(shape(batch_key, len(moved)), took_us, reused=reused)
    else:
        floor.step_costs.observe(shape(batch_key, len(moved)), took_us)


def _report(floor: Floor, rows: Sequence[Row]) -> None:
    for generation in dict.fromkeys(row.generation for row in rows):
        if floor.is_live(generation):
            floor.emit(generation.progress(now_us=floor.now_us()))
            if saving.is_due(floor, generation):
                saving.tell(floor, generation)
