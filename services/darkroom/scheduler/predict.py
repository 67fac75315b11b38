"""How long a job takes on a runner.

A `Job` and a `Runner` come in; microseconds go out: what is aboard of its class and of those before it, then loading the model if it
is not there, then the job's own text, steps and decoding at measured cost, all stretched by other processes' use of the device, and
its files. `place` compares runners by it and `explain` tells it; admission holds deadlines against the same number (`loop.forecast`).
"""

from darkroom.scheduler.domain import fleet

SLOWER_MAX = 4.0
"""How many times longer other processes make work at most. Devices are shared in turns, so there is a fourth left beside three that
never pause. What lasts is in the measured step costs besides, which follow a slower device by 2 % a step: a larger factor would count
the same neighbours twice, or take one stall for a rate."""


def work_us(job: fleet.Job, runner: fleet.Runner) -> int:
    """Accelerator time left to do there: steps as measured if the runner knows the shape, else as accepted, and its fixed cost."""
    step_us = runner.step_us.get((job.model, job.shape))
    steps_left = max(job.steps_total - job.steps_kept, 0)
    accepted_us = (job.work_us - job.fixed_us) * steps_left // max(job.steps_total, 1)
    return job.fixed_us + (accepted_us if step_us is None else step_us * steps_left)


def load_us(job: fleet.Job, runner: fleet.Runner) -> int:
    """Time until the model is loaded there; 0 if it is."""
    return 0 if job.model in runner.resident else job.model_load_us


def ahead_us(priority: int, runner: fleet.Runner) -> int:
    """Accelerator time that is there of a class and of those before it; the others give way at the next step."""
    return sum(backlog_us for rank, backlog_us in runner.backlog_us.items() if rank <= priority)


def completion_us(job: fleet.Job, runner: fleet.Runner) -> int:
    """Time from now until the job would be done there."""
    return (
        load_us(job, runner)
        + round((ahead_us(job.priority, runner) + work_us(job, runner)) * slower(runner))
        + job.encode_us
    )


def slower(runner: fleet.Runner) -> float:
    """How many times longer work takes there than its device needs alone, because others use it: 1 to `SLOWER_MAX`."""
    return 1.0 / max(1.0 - runner.foreign_utilization, 1.0 / SLOWER_MAX)
