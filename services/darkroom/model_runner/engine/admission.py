"""Admission: a waiting generation gets its model, its LoRAs, its text and its noise, and so its rows.

In: waiting generations, those of one model together. Out: rows at step 0, or at the step of their checkpoint, which the
loop steps from now on. Next: `slices`.
"""

import collections
from collections.abc import Hashable, Sequence

from darkroom.model_runner.engine import checkpoint, saving, together
from darkroom.model_runner.engine.floor import Floor
from darkroom.model_runner.engine.generation import Generation, Row
from darkroom.model_runner.engine.job import Output, Stage, Started, Usage
from darkroom.model_runner.engine.state import State


def key(generation: Generation) -> Hashable:
    """Return what generations that are prepared together have in common."""
    return "prepare", generation.job.model


def candidates(floor: Floor) -> list[Generation]:
    """Return who may be prepared: whose pictures are read, and whose rows find a place in their class or are alone there.

    Who waits for a model may as well; it is loaded before pictures are read. Places are kept for who has waited so long for
    many of them that it has aged.
    """
    rows = collections.Counter(row.generation.job.priority for row in floor.rows)
    kept: set[int] = set()  # classes whose next places somebody has waited for
    found = []
    for generation in floor.waiting:
        priority = generation.job.priority
        if priority in kept or not (generation.is_read or not floor.residency.has(generation.job.model)):
            continue
        if not (taken := rows[priority]) or taken + len(generation.job.seeds) <= floor.config.rows_live_max:
            found.append(generation)
        elif floor.now_us() - generation.arrived_us >= floor.config.ageing_us:
            kept.add(priority)
    return found


def fitting(floor: Floor, generations: Sequence[Generation]) -> list[Generation]:
    """Return the first, and those after it that may be prepared with it: one forward of the encoders, all with places."""
    chosen = [generations[0]]
    places = collections.Counter(row.generation.job.priority for row in floor.rows)
    places[chosen[0].job.priority] += len(chosen[0].job.seeds)
    for generation in generations[1 : floor.rows_max(key(chosen[0]))]:
        places[generation.job.priority] += len(generation.job.seeds)
        if places[generation.job.priority] > floor.config.rows_live_max:
            break
        chosen.append(generation)
    return chosen


def load(floor: Floor, generation: Generation) -> None:
    """Make its model resident, at the platform's expense; if that fails, this generation fails alone."""
    model = generation.job.model
    waiting = [other for other in floor.waiting if other.job.model == model]
    for other in waiting:
        other.mark("wait", now_us=floor.now_us())
    started_us = floor.device_us()
    try:
        floor.residency.load(model, in_use=floor.models_in_use(), rooted=floor.models_rooted())
    except Exception as error:
        floor.fail(generation, error)
    finally:
        load_us = floor.device_us() - started_us
        floor.account.platform(load_us)
        floor.grow()
        for other in waiting:
            other.load_us += load_us
            other.mark("load", now_us=floor.now_us())


def prepare(floor: Floor, generations: Sequence[Generation]) -> None:
    """Turn waiting generations of one resident model into rows; who brings a checkpoint goes on from there."""
    floor.stirred = True
    for generation in generations:
        floor.waiting.remove(generation)
        generation.mark("wait", now_us=floor.now_us())
    restored = {generation: saved for generation in generations if (saved := _restore(floor, generation))}
    for generation in generations:
        _load_adapters(floor, generation, again=generation in restored)
    for generation, saved in restored.items():
        if floor.is_live(generation):
            _start(floor, generation, *saved)
    family = floor.family(generations[0].job.model)
    prepared = together.run(
        floor,
        [generation for generation in generations if generation not in restored],
        lambda some: family.prepare([generation.job_with_pictures() for generation in some]),
        generation_of=lambda generation: generation,
        key=key(generations[0]),
    )
    for generation, states, share_us in prepared:
        if floor.charge(generation, "prepare", share_us):
            _start(floor, generation, states)


def _restore(floor: Floor, generation: Generation) -> checkpoint.Saved | None:
    if generation.job.checkpoint is None or not floor.is_live(generation):
        return None
    saved, (share_us,) = floor.timed(lambda: saving.restore(floor, generation))
    floor.account.forfeit(share_us)  # nobody pays for what is done again
    return saved


def _load_adapters(floor: Floor, generation: Generation, *, again: bool) -> None:
    if not generation.job.adapters:
        return
    bank = floor.family(generation.job.model).bank
    loaded = together.run(
        floor,
        [generation],
        lambda some: [[bank.get(use) for use in each.job.adapters] for each in some],
        generation_of=lambda each: each,
        key=("adapters", generation.job.model),
    )
    for _, _, share_us in loaded:
        if again:
            floor.account.forfeit(share_us)
        else:
            floor.charge(generation, "adapters", share_us)
    generation.mark("adapters", now_us=floor.now_us())


def _start(
    floor: Floor,
    generation: Generation,
    images: Sequence[State | Output],
    used: Usage | None = None,
    spent: Sequence[Stage] = (),
) -> None:
    now_us = floor.now_us()
    resumed_step = generation.begin(images, used, spent, now_us=now_us)
    generation.mark("prepare", now_us=now_us)
    floor.rows += [
        Row(generation, index, image, generation.arrived_us)
        for index, image in enumerate(images)
        if isinstance(image, State)
    ]
    floor.emit(Started(generation.job.key, resumed_step))
