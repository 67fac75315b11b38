"""What is aboard the runners of a pool: the owner's memory of attempts that the database holds to be current.

The pool adds attempts as it begins (or adopts) them and drops them as they end; placement reads each runner's load from here. The
database decides; this is only what saves asking it.
"""

import collections
import dataclasses
from collections.abc import Iterator

from darkroom.scheduler.domain import fleet


@dataclasses.dataclass
class Aboard:
    """One attempt: on which stream it was sent (0: by an owner before), and how far it is."""

    attempt: fleet.Attempt
    stream: int
    work_us: int
    share_done: float = 0.0
    cancel_first_s: float | None = None  # monotonic
    cancel_last_s: float = 0.0


class Roster:
    """Every attempt aboard, by its key."""

    def __init__(self) -> None:
        self._by_key: dict[fleet.Key, Aboard] = {}

    def __iter__(self) -> Iterator[Aboard]:
        return iter(list(self._by_key.values()))

    def add(self, aboard: Aboard) -> None:
        """Remember an attempt."""
        self._by_key[aboard.attempt.key] = aboard

    def get(self, key: fleet.Key) -> Aboard | None:
        """The attempt, if it is aboard."""
        return self._by_key.get(key)

    def drop(self, key: fleet.Key) -> None:
        """Forget an attempt."""
        self._by_key.pop(key, None)

    def of(self, runner_id: str) -> list[Aboard]:
        """What is aboard one runner."""
        return [aboard for aboard in self._by_key.values() if aboard.attempt.runner_id == runner_id]

    def load(self, runner: fleet.Runner) -> fleet.Runner:
        """The runner with what is aboard."""
        aboard = self.of(runner.runner_id)
        backlog_us: collections.Counter[int] = collections.Counter()
        for one in aboard:
            backlog_us[one.attempt.priority] += round(one.work_us * (1.0 - one.share_done))
        return dataclasses.replace(
            runner,
            attempts=len(aboard),
            has_solo=any(one.attempt.solo for one in aboard),
            backlog_us=backlog_us,
            resident=runner.resident | {one.attempt.model for one in aboard},
        )
