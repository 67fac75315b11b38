"""How good a runner is for a job.

A job, a runner and the fastest prediction come in; terms in 0..1 (1 is best) go out, and their weighted mean. `pick` sorts by it.
"""

from collections.abc import Mapping

from darkroom.scheduler.domain import fleet


def terms(
    job: fleet.Job, runner: fleet.Runner, *, predicted_us: int, fastest_us: int, runner_attempts_max: int
) -> dict[str, float]:
    """Judge the runner: how near to the fastest, unshared, model loaded, room aboard, not tried by this job last."""
    return {
        "time": fastest_us / predicted_us if predicted_us else 1.0,
        "unshared": 1.0 - min(max(runner.foreign_utilization, 0.0), 1.0),
        "resident": float(job.model in runner.resident),
        "room": 1.0 - min(runner.attempts / runner_attempts_max, 1.0),
        "untried": float(runner.runner_id != job.last_runner_id),
    }


def score(judged: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Weigh the terms; 0 to 1, and 0 if no term has a weight."""
    whole = sum(weights[name] for name in judged)
    return sum(weights[name] * value for name, value in judged.items()) / whole if whole else 0.0
