"""The order of candidates: best score first, and always the same among equals.

Scored candidates come in; the sorted list goes out to `place`, whose first entry gets the job.
"""

from collections.abc import Iterable

from darkroom.scheduler.domain import fleet


def best_first(candidates: Iterable[fleet.Candidate]) -> list[fleet.Candidate]:
    """Sort by score, then by predicted time, then by id; scores that differ in the tenth digit are equal."""
    return sorted(candidates, key=lambda one: (-round(one.score, 9), one.predicted_us, one.runner_id))
