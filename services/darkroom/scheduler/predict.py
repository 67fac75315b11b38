"""How long a job takes on a runner.

A `Job` and a `Runner` come in; microseconds go out: models that are being loaded there, what is aboard of its class and of those before
it, then loading the model if it is not there, then the job's own text, steps and decoding at measured cost, all stretched by other
processes' use of the device, and its files. `place` compares runners by it and `explain` tells it; admission holds deadlines against
the same number (`loop.forecast`). Both have `laden` say what is aboard: the pool's owner from memory, the others from the database.
"""

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping

from darkroom.scheduler.domain import fleet

SLOWER_MAX = 4.0
"""How many times longer other processes make work at most. Devices are shared in turns, so there is a fourth left beside three that
never pause. What lasts is in the measured step costs besides, which follow a slower device by 2 % a step: a larger factor would count
the same neighbours twice, or take one stall for a rate."""


def whole_us(job: fleet.Job, runner: fleet.Runner) -> int:
    """Accelerator time of all its steps there and its fixed cost.

    Steps cost what the runner measured of the shape, else what runners of its kind did, of the nearest shape if need be, else what was
    accepted.
    """
    step_us = runner.step_us.get((job.model, job.shape)) or runner.kind_us.get(job.model, {}).get(job.shape)
    return job.work_us if step_us is None else job.fixed_us + step_us * job.steps_total


def left_us(work_us: int, *, fixed_us: int, steps_total: int, steps_done: int) -> int:
    """What is left of a work: the steps that are not done, and its fixed cost, of which most comes after them."""
    return fixed_us + (work_us - fixed_us) * max(steps_total - steps_done, 0) // max(steps_total, 1)


def work_us(job: fleet.Job, runner: fleet.Runner) -> int:
    """Accelerator time left to do there."""
    return left_us(whole_us(job, runner), fixed_us=job.fixed_us, steps_total=job.steps_total, steps_done=job.steps_kept)


def load_us(job: fleet.Job, runner: fleet.Runner) -> int:
    """Time to load the model there; 0 if it is there, or is being loaded."""
    return 0 if job.model in runner.resident else job.model_load_us


def ahead_us(priority: int, runner: fleet.Runner) -> int:
    """Accelerator time that is there of a class and of those before it; the others give way at the next step."""
    return sum(backlog_us for rank, backlog_us in runner.backlog_us.items() if rank <= priority)


def wait_us(priority: int, runner: fleet.Runner) -> int:
    """Time from now until it is the turn of a class there; models that are being loaded give way to nobody."""
    return runner.loading_us + round(ahead_us(priority, runner) * slower(runner))


def completion_us(job: fleet.Job, runner: fleet.Runner) -> int:
    """Time from now until the job would be done there."""
    busy_us = ahead_us(job.priority, runner) + work_us(job, runner)
    return runner.loading_us + load_us(job, runner) + round(busy_us * slower(runner)) + job.encode_us


def slower(runner: fleet.Runner) -> float:
    """How many times longer work takes there than its device needs alone, because others use it: 1 to `SLOWER_MAX`."""
    return 1.0 / max(1.0 - runner.foreign_utilization, 1.0 / SLOWER_MAX)


def laden(runner: fleet.Runner, loads: Collection[fleet.Load], load_us: Mapping[str, int]) -> fleet.Runner:
    """The runner with what is aboard, and with its models: those that it has not are being loaded since the first came for them.

    `load_us` says how long loading takes, by model.
    """
    backlog_us: Counter[int] = Counter()
    aboard_us: dict[str, int] = {}
    for load in loads:
        backlog_us[load.priority] += load.work_us
        aboard_us[load.model] = max(load.aboard_us, aboard_us.get(load.model, 0))
    coming = aboard_us.keys() - runner.resident
    return dataclasses.replace(
        runner,
        backlog_us=backlog_us,
        loading_us=sum(max(load_us.get(model, 0) - aboard_us[model], 0) for model in coming),
        resident=runner.resident | coming,
    )
