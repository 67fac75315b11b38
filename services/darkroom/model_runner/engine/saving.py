"""Saving generations between two steps, and going on with them.

In: a generation's rows and finished files. Out: a state file, as the event that carries it; or, from a job's state file,
what it holds, on this device. A file that does not fit is refused, and its generation begins anew. Next: `admission` makes
rows of the states.
"""

import logging

import torch

from darkroom.model_runner.engine import checkpoint, errors
from darkroom.model_runner.engine.floor import Floor
from darkroom.model_runner.engine.generation import Generation
from darkroom.model_runner.engine.job import Checkpointed, Output, Suspended
from darkroom.model_runner.engine.state import State

_log = logging.getLogger(__name__)


def save(floor: Floor, generation: Generation) -> bytes | None:
    """Return the generation's state file, made at the platform's expense; None if it has none, or it cannot be made."""
    images: dict[int, State | Output] = {row.image: row.state for row in floor.rows if row.generation is generation}
    if not images or not all(state.is_portable for state in images.values() if isinstance(state, State)):
        return None
    images |= generation.outputs
    generation.mark("denoise", now_us=floor.now_us())
    generation.saved_us = floor.now_us()
    started_us = floor.device_us()
    try:
        return checkpoint.save(
            [images[image] for image in sorted(images)],
            generation.usage(),
            generation.stages(),
            job=generation.job,
            spec=floor.residency.spec(generation.job.model),
        )
    except Exception as error:  # it costs the checkpoint alone
        outlive(error, f"generation {generation.job.key} cannot be saved")
        return None
    finally:
        floor.account.platform(floor.now_us() - started_us)


def tell(floor: Floor, generation: Generation) -> None:
    """Save a generation that goes on, if it has states."""
    if data := save(floor, generation):
        floor.emit(Checkpointed(generation.job.key, data, generation.usage()))


def suspend(floor: Floor, generation: Generation) -> None:
    """Save a generation and end it here; what was decoded, but is no file yet, is decoded again elsewhere."""
    for row in floor.rows:
        if row.generation is generation and row.is_decoded and row.image not in generation.outputs:
            floor.refund(generation, "decode", row.decode_us)
    data = save(floor, generation)
    floor.end(generation, Suspended(generation.job.key, data, generation.usage()))


def make_way(floor: Floor, urgent: Generation) -> bool:
    """Put generations aside whose models leave no room for a more urgent one's; whether any was.

    Each is put aside once at most, and after a step at least, so that all of them come to their end.
    """
    model, in_use = urgent.job.model, floor.models_in_use()
    aboard = {
        other: {row.generation for row in floor.rows if row.model == other and not row.is_decoded} for other in in_use
    }
    yielding = [other for other in in_use if all(_yields(floor, each, urgent) for each in aboard[other])]
    if not yielding or not floor.can_load(model, without=set(yielding)):
        return False
    for other in sorted(yielding):
        if not floor.can_load(model):
            for generation in aboard[other]:
                suspend(floor, generation)
    return True


def _yields(floor: Floor, generation: Generation, urgent: Generation) -> bool:
    job = generation.job
    may_leave = job.checkpoint is None and generation.has_stepped and is_portable(floor, generation)
    return may_leave and job.priority > urgent.job.priority


def is_portable(floor: Floor, generation: Generation) -> bool:
    """Whether its states can be saved."""
    return all(row.state.is_portable for row in floor.rows if row.generation is generation)


def is_due(floor: Floor, generation: Generation) -> bool:
    """Whether it has run for so long since it was last saved that it should be again; files that are being made come first."""
    interval_us = floor.config.checkpoint_interval_us
    if not interval_us or floor.now_us() - generation.saved_us < interval_us:
        return False
    making = (row for row in floor.rows if row.generation is generation and row.is_decoded)
    return all(row.image in generation.outputs for row in making)


def restore(floor: Floor, generation: Generation) -> checkpoint.Saved | None:
    """Return what the job's state file holds; None if it has none, or one that does not fit here."""
    job = generation.job
    if job.checkpoint is None:
        return None
    try:
        spec, device = floor.residency.spec(job.model), torch.device(floor.config.device)
        return checkpoint.load(job.checkpoint, job=job, spec=spec, device=device)
    except checkpoint.Refused as refusal:
        _log.warning("generation %s begins anew: %s", job.key, refusal)
    except Exception as error:  # a forged file, or one that this device has no memory for
        outlive(error, f"generation {job.key} begins anew: its checkpoint cannot be read")
    return None


def outlive(error: Exception, what: str) -> None:
    """Go on after an error, which is logged; DeviceLost if that was it."""
    if isinstance(known := errors.translate(error), errors.DeviceLost):
        raise known from error
    _log.warning("%s (%s)", what, type(error).__name__)
