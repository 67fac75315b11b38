"""What a request takes at most: accelerator time, steps, money, and whether its deadline can be met.

A filled request, its model, the prices in force and measured costs (where there are any) come in; an `Estimate` goes out, which
the spending lease reserves. The same work estimate serves placement.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from darkroom import catalog, errors, pricing
from darkroom.api.types.v1 import inputs_pb2
from darkroom.scheduler import asked, bucket, sources
from darkroom.scheduler.domain import fleet


class Estimate(NamedTuple):
    """The work and the most that it can cost."""

    work_us: int
    fixed_us: int
    """The part of the work that is not steps."""
    encode_us: int
    """Until the last file is made, after the work."""
    steps_total: int
    nanos: int


def estimate(
    wanted: asked.Media,
    entry: catalog.ModelEntry,
    kinds: Sequence[fleet.Accelerator],
    *,
    rates: pricing.Rates,
    safety_factor: float,
) -> Estimate:
    """Bound the work and the price of a filled input, by what was measured of its model on each kind of accelerator: by the slowest.

    Files are made beside the device's work, so that only the last one's time comes after it.
    """
    step_us = step_cost_us(wanted, entry, *(kind.step_costs_us for kind in kinds))
    fixed = fixed_cost(wanted, entry, *(kind.fixed_costs for kind in kinds))
    size = asked.size(wanted)
    steps_total = sources.steps_left(wanted, entry) * size.outputs
    fixed_us = fixed.prepare_us + fixed.decode_us * size.outputs
    work_us = steps_total * step_us + fixed_us
    at_most = pricing.Quantities(
        gpu_time_us=round(work_us * safety_factor),
        steps=steps_total,
        images=size.outputs if isinstance(wanted, inputs_pb2.ImageInput) else 0,
        pixels=size.pixels * size.outputs,
        media_duration_us=size.duration_us * size.outputs,
    )
    nanos = pricing.total(pricing.lines(rates, at_most))
    return Estimate(work_us, fixed_us, fixed.encode_us, steps_total, nanos)


def step_cost_us(wanted: asked.Media, entry: catalog.ModelEntry, *known: Mapping[str, int]) -> int:
    """Predict one step of one output from what each kind knows of the model (`bucket.Nearest`), else from the catalogue's guess.

    The slowest kind counts, so that what is reserved holds wherever the work lands.
    """
    shape = asked.shape(wanted, entry)
    told_us = [each.get(shape, 0) for each in known]
    if slowest_us := max(told_us, default=0):
        return slowest_us
    own = bucket.of(shape)
    return max(1, round(entry.step_cost_us_guess * own.work / _of_guess(entry, own).work))


def fixed_cost(
    wanted: asked.Media, entry: catalog.ModelEntry, *known: Mapping[str, fleet.FixedCost]
) -> fleet.FixedCost:
    """Predict what it takes besides its steps from what each kind measured of the model, by size; nothing if nothing was.

    Decoding and files of a size that was not measured are scaled by their pixels from the nearest that was; a text takes the same. Of
    each, the slowest kind counts.
    """
    own = bucket.of(asked.shape(wanted, entry))._replace(tier="", guided=False)
    told = []
    for each in known:
        if found := bucket.nearest(own, each):
            nearest, cost = found
            scale = own.work / nearest.work
            told.append((cost.prepare_us, round(cost.decode_us * scale), round(cost.encode_us * scale)))
    return fleet.FixedCost(*map(max, zip(*told, strict=True)))


def is_measured(wanted: asked.Media, entry: catalog.ModelEntry, known: Mapping[str, int]) -> bool:
    """Whether a step of this size, guidance and tier was measured."""
    return asked.shape(wanted, entry) in known


def check_deadline(*, deadline_us: int | None, expected_us: int, wait_us: int) -> None:
    """Refuse a deadline before the end to expect, saying how long it would take: ResourceExhausted with the wait to hope for."""
    if deadline_us is None or expected_us <= deadline_us:
        return
    raise errors.ResourceExhausted(
        "DEADLINE_HOPELESS",
        f"it would take about {expected_us / 1e6:.1f} s, longer than its deadline",
        retry_after_s=max(1.0, wait_us / 1e6),
    )


def _of_guess(entry: catalog.ModelEntry, own: bucket.Bucket) -> bucket.Bucket:
    """Return what the catalogue's guess is of: its default size, and whatever guidance is asked for."""
    defaults = entry.defaults
    return own._replace(pixels=own.pixels and defaults.width * defaults.height * max(1, defaults.num_frames))
