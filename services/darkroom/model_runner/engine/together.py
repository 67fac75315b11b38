"""Device work for several at once; where it fails, for fewer, so that whoever is at fault fails alone.

In: items (generations, or rows of some), and the work. Out: each item's result and its share of the time; a generation whose
item failed has ended. Where memory is short, others make room. Next: `admission`, `slices` and `finishing` charge the shares.
"""

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, NamedTuple, TypeVar

from darkroom.model_runner.engine import errors, saving
from darkroom.model_runner.engine.floor import Floor
from darkroom.model_runner.engine.generation import Generation

Item = TypeVar("Item")
Result = TypeVar("Result")

_log = logging.getLogger(__name__)


class Done(NamedTuple, Generic[Item, Result]):
    """One item's result and its share of the time."""

    item: Item
    result: Result
    share_us: int


def run(
    floor: Floor,
    items: Sequence[Item],
    work: Callable[[list[Item]], Sequence[Result]],
    *,
    generation_of: Callable[[Item], Generation],
    key: Hashable,
) -> list[Done[Item, Result]]:
    """Do the work for all items that are live; return what came of those for which it could be done.

    Where memory was short, idle models leave, two halves are tried, and later batches of this `key` are as small; for one
    alone, the least urgent other generation leaves too.
    """
    items = [item for item in items if floor.is_live(generation_of(item))]
    if not items:
        return []
    done, error = _try(floor, items, work)
    if error is None:
        return done
    floor.stirred = True
    short = isinstance(errors.translate(error), errors.OutOfMemory)
    if len(items) == 1:
        generation = generation_of(items[0])
        done, error = _try_with_room(floor, items, work, generation) if short else (done, error)
        if error is not None:
            floor.fail(generation, error)
        return done
    _log.warning("work for %d together failed (%s); fewer are tried", len(items), type(error).__name__)
    part = 1
    if short:
        part = -(-len(items) // 2)
        floor.relieve(besides=generation_of(items[0]).job.model)
        floor.shrink(key, part)
    parts = [items[begin : begin + part] for begin in range(0, len(items), part)]
    return [each for part in parts for each in run(floor, part, work, generation_of=generation_of, key=key)]


def _try(
    floor: Floor, items: Sequence[Item], work: Callable[[list[Item]], Sequence[Result]]
) -> tuple[list[Done[Item, Result]], Exception | None]:
    try:
        results, shares_us = floor.timed(lambda: work(list(items)), parts=len(items))
    except Exception as error:
        known = errors.translate(error)
        if isinstance(known, errors.DeviceLost):
            raise known from error
        if isinstance(known, errors.OutOfMemory):
            return [], known  # without its traceback, whose frames hold the tensors that filled the memory
        return [], error
    return [Done(*each) for each in zip(items, results, shares_us, strict=True)], None


def _try_with_room(
    floor: Floor, items: Sequence[Item], work: Callable[[list[Item]], Sequence[Result]], generation: Generation
) -> tuple[list[Done[Item, Result]], Exception | None]:
    """Try again without idle models, then without the least urgent other generation."""
    floor.relieve(besides=generation.job.model)
    done, error = _try(floor, items, work)
    if error is not None and (other := _less_urgent(floor, generation)):
        _log.warning("generation %s is put aside: there is not enough memory", other.job.key)
        saving.suspend(floor, other)
        floor.relieve(besides=generation.job.model)
        done, error = _try(floor, items, work)
    return done, error


def _less_urgent(floor: Floor, generation: Generation) -> Generation | None:
    """Return the generation that is least urgent of those that still need the device, if it is less so than this one.

    It is one that loses nothing by leaving, or if there is none, one that can be saved as it came.
    """

    def urgency(other: Generation) -> tuple[int, int]:
        return other.job.priority, other.arrived_us

    there = dict.fromkeys(row.generation for row in floor.rows if not row.is_decoded)
    others = [other for other in there if other is not generation and saving.is_portable(floor, other)]
    others = [other for other in others if other.has_stepped] or others
    least = max(others, key=urgency, default=generation)
    return least if urgency(least) > urgency(generation) else None
