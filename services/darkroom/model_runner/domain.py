"""The nouns of the runner's shell: which attempt, what became of it, who the runner is. The engine's nouns are in `engine.job`."""

from typing import NamedTuple


class AttemptKey(NamedTuple):
    """The fencing token of an attempt."""

    generation_id: str
    owner_epoch: int
    attempt: int

    @property
    def job_key(self) -> str:
        """Its name in the engine."""
        return f"{self.generation_id}/{self.owner_epoch}/{self.attempt}"


class AttemptFailed(Exception):
    """An attempt cannot go on; `request_fault` says whether another runner would fail the same way."""

    def __init__(self, reason: str, message: str, *, request_fault: bool) -> None:
        super().__init__(message)
        self.reason = reason
        self.request_fault = request_fault


class Identity(NamedTuple):
    """What a runner tells of itself at registration."""

    runner_id: str
    node: str
    address: str
    """host:port at which schedulers dial it."""
    models: tuple[str, ...]
    """Those it may load."""
