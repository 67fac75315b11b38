"""Where a job goes: filter, predict, score, pick.

A job and the runners of a pool come in; a `Decision` that explains itself goes out. `schedule` runs it for a whole queue.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from darkroom.scheduler import filters, pick, predict, scorers
from darkroom.scheduler.domain import fleet

CANDIDATES_KEPT = 5


class Rules(NamedTuple):
    """From the configuration: bounds, and the weight of each term of the score."""

    limits: filters.Limits
    weights: Mapping[str, float]


def place(job: fleet.Job, runners: Iterable[fleet.Runner], rules: Rules) -> fleet.Decision:
    """Choose a runner for the job, or none; runners with stale telemetry are used only when there is no other."""
    reasons = [(runner, filters.reason(job, runner, rules.limits)) for runner in runners]
    able = [runner for runner, reason in reasons if not reason]
    if not able:  # failing open to the least stale
        able = sorted((runner for runner, reason in reasons if reason == filters.STALE), key=_staleness)[:1]
    rejections = dict(Counter(reason for runner, reason in reasons if reason and runner not in able))
    if not able:
        return fleet.Decision("", 0, (), rejections, f"no runner can take it now{_counted(rejections)}")
    candidates = pick.best_first(_candidates(job, able, rules))[:CANDIDATES_KEPT]
    seen = {runner.runner_id: runner for runner in able}
    summary = _summary(job, candidates, seen, rejections)
    return fleet.Decision(candidates[0].runner_id, candidates[0].predicted_us, tuple(candidates), rejections, summary)


def _staleness(runner: fleet.Runner) -> tuple[float, str]:
    return runner.silent_s, runner.runner_id


def _candidates(job: fleet.Job, able: list[fleet.Runner], rules: Rules) -> list[fleet.Candidate]:
    predictions = [predict.completion_us(job, runner) for runner in able]
    fastest_us = min(predictions)
    found = []
    for runner, predicted_us in zip(able, predictions, strict=True):
        judged = scorers.terms(
            job,
            runner,
            predicted_us=predicted_us,
            fastest_us=fastest_us,
            runner_attempts_max=rules.limits.runner_attempts_max,
        )
        total = scorers.score(judged, rules.weights)
        found.append(
            fleet.Candidate(runner.runner_id, runner.node, predicted_us, runner.foreign_utilization, judged, total)
        )
    return found


def _summary(
    job: fleet.Job,
    candidates: list[fleet.Candidate],
    runners: Mapping[str, fleet.Runner],
    rejections: Mapping[str, int],
) -> str:
    chosen = candidates[0]
    text = f"{chosen.runner_id} on {chosen.node}: predicted {_seconds(chosen.predicted_us)}"
    if job.suspect:
        text += ", alone, since a runner died with it aboard"
    if len(candidates) == 1:
        return f"{text}; no other runner could take it{_counted(rejections)}"
    other = candidates[1]
    why = _why_not(job, other=runners[other.runner_id], chosen=runners[chosen.runner_id], candidates=candidates)
    return f"{text}; {other.runner_id} on {other.node} {why}{_counted(rejections)}"


def _why_not(job: fleet.Job, *, other: fleet.Runner, chosen: fleet.Runner, candidates: list[fleet.Candidate]) -> str:
    if other.foreign_utilization >= chosen.foreign_utilization + 0.05:
        return f"was slower: {other.foreign_utilization:.0%} of its device is used by others".replace("%", " %")
    if job.model in chosen.resident and job.model not in other.resident:
        return "would have had to load the model first"
    if other.runner_id == job.last_runner_id:
        return "had the attempt before"
    if candidates[1].predicted_us > candidates[0].predicted_us:
        return f"was slower: predicted {_seconds(candidates[1].predicted_us)}"
    return "was no better"


def _counted(rejections: Mapping[str, int]) -> str:
    parts = [f"{count} {reason.replace('_', ' ')}" for reason, count in sorted(rejections.items())]
    return f" ({', '.join(parts)})" if parts else ""


def _seconds(duration_us: int) -> str:
    seconds = duration_us / 1e6
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
