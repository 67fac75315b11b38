"""What is aboard the runners of a pool: the owner's memory of attempts that the database holds to be current.

The pool adds attempts as it begins (or adopts) them and drops them as they end; placement reads each runner's load from here. The
database decides; this is only what saves asking it.
"""

import dataclasses
import time
from collections.abc import Iterator, Mapping

from darkroom.scheduler import predict
from darkroom.scheduler.domain import fleet


@dataclasses.dataclass
class Aboard:
    """One attempt: on which stream it was sent (0: by an owner before), its work on its runner, and how far it is."""

    attempt: fleet.Attempt
    stream: int
    work_us: int  # of all its steps
    cancel_first_s: float | None = None  # monotonic
    cancel_last_s: float = 0.0
    steps_done: int = dataclasses.field(init=False)
    begun_s: float = dataclasses.field(init=False)  # monotonic

    def __post_init__(self) -> None:
        self.steps_done = self.attempt.steps_done
        self.begun_s = time.monotonic() - self.attempt.aboard_us / 1e6

    def load(self) -> fleet.Load:
        """What is left of it."""
        attempt = self.attempt
        left_us = predict.left_us(
            self.work_us, fixed_us=attempt.fixed_us, steps_total=attempt.steps_total, steps_done=self.steps_done
        )
        aboard_us = round((time.monotonic() - self.begun_s) * 1e6)
        return fleet.Load(attempt.model, attempt.priority, left_us, attempt.runner_id, aboard_us)


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

    def load(self, runner: fleet.Runner, load_us: Mapping[str, int]) -> fleet.Runner:
        """The runner with what is aboard; `load_us` says how long loading takes, by model."""
        aboard = self.of(runner.runner_id)
        return dataclasses.replace(
            predict.laden(runner, [one.load() for one in aboard], load_us),
            attempts=len(aboard),
            has_solo=any(one.attempt.solo for one in aboard),
        )
