"""What a request takes at most: accelerator time, steps, money, and whether its deadline can be met.

A filled request, its model, the prices in force and measured step costs (where there are any) come in; an `Estimate` goes out, which
the spending lease reserves. The same work estimate serves placement.
"""

from typing import NamedTuple

from darkroom import catalog, errors, pricing
from darkroom.api.types.v1 import inputs_pb2
from darkroom.scheduler import asked


class Estimate(NamedTuple):
    """The work and the most that it can cost."""

    work_us: int
    steps_total: int
    nanos: int


def step_cost_us(wanted: asked.Media, entry: catalog.ModelEntry) -> int:
    """Guess one step of one output before anything was measured: the catalogue's, scaled by the pixels; a sound has none."""
    pixels, defaults = asked.size(wanted).pixels, entry.defaults
    default_pixels = defaults.width * defaults.height * max(1, defaults.num_frames)
    return max(1, entry.step_cost_us_guess * pixels // default_pixels if pixels else entry.step_cost_us_guess)


def estimate(wanted: asked.Media, *, rates: pricing.Rates, step_us: int, safety_factor: float) -> Estimate:
    """Bound the work and the price of a filled input; `step_us` is one step of one output."""
    size = asked.size(wanted)
    steps_total = wanted.steps * size.outputs
    work_us = steps_total * step_us
    at_most = pricing.Quantities(
        gpu_time_us=round(work_us * safety_factor),
        steps=steps_total,
        images=size.outputs if isinstance(wanted, inputs_pb2.ImageInput) else 0,
        pixels=size.pixels * size.outputs,
        media_duration_us=size.duration_us * size.outputs,
    )
    return Estimate(work_us, steps_total, pricing.total(pricing.lines(rates, at_most)))


def check_deadline(*, deadline_us: int | None, wait_us: int, work_us: int) -> None:
    """Refuse a deadline that cannot be met, saying how long it would take: ResourceExhausted with the wait to hope for."""
    expected_us = wait_us + work_us
    if deadline_us is None or expected_us <= deadline_us:
        return
    raise errors.ResourceExhausted(
        "DEADLINE_HOPELESS",
        f"it would take about {expected_us / 1e6:.1f} s, longer than its deadline",
        retry_after_s=max(1.0, wait_us / 1e6),
    )
