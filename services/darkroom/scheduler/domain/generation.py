"""A generation as the scheduler keeps it.

`admit` makes a `New` from a request; the store inserts it and reads it back as a `Generation`; the servicer translates that for its
caller, and the placement half moves it through its states.
"""

import enum
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple


class State(enum.StrEnum):
    """Where a generation is in its life."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})


class Priority(enum.IntEnum):
    """Which work goes first; the numbers are the proto's."""

    INTERACTIVE = 1
    STANDARD = 2
    BATCH = 3


@dataclass(frozen=True, kw_only=True)
class New:
    """A request that was checked and priced, ready to be made durable."""

    generation_id: str
    tenant_id: str
    idempotency_key: str
    params_sha256: bytes
    model: str
    model_revision: str
    priority: Priority
    input: bytes  # CreateGenerationRequest, defaults and seed filled in
    tags: dict[str, str]
    price_version_id: str
    currency: str
    estimate_nanos: int
    rates: dict[str, Any]  # pricing.Rates
    work_us: int
    fixed_us: int  # the part of work_us that is not its steps
    encode_us: int  # until its last file is made, after its work
    steps_total: int
    shape: str  # bucket.name(...)
    deadline_us: int | None  # from acceptance
    expected_us: int | None  # predicted end, from acceptance; None if no runner is known


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One row of the table `generation`, column by column."""

    generation_id: str
    tenant_id: str
    model: str
    model_revision: str
    state: State
    priority: Priority
    input: bytes
    tags: dict[str, str]
    price_version_id: str
    currency: str
    estimate_nanos: int
    rates: dict[str, Any]
    work_us: int
    fixed_us: int = 0
    encode_us: int = 0
    steps_total: int
    shape: str = ""  # bucket.name(...)
    steps_done: int
    sequence: int
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    deadline: datetime | None = None
    expected_finish_at: datetime | None = None
    cancel_requested: bool = False
    attempt: int = 0
    owner_epoch: int = 0
    pool: str | None = None
    runner_id: str | None = None
    solo_deaths: int = 0
    suspect: bool = False
    checkpoint: dict[str, Any] | None = None  # fields of fleet.Checkpoint
    resumed_step: int = 0  # steps that were done when the present attempt began
    suspensions: int = 0
    error: dict[str, Any] | None = None  # reason, message, retryable
    usage: dict[str, int] | None = None  # fields of pricing.Quantities
    stages: dict[str, int] | None = None  # fields of the proto StageTimes
    artifacts: list[dict[str, Any]] = field(default_factory=list)  # proto Artifact as JSON, proto field names

    @property
    def is_final(self) -> bool:
        """Whether nothing changes any more."""
        return self.state in FINAL


class Event(NamedTuple):
    """One change of state."""

    sequence: int
    state: State
    at: datetime
