"""Who may run what, as placement sees it.

The store reads `Job`s from the queue and the owner of a pool keeps a `Runner` for each stream; `place` turns them into a
`Decision`, which is stored with the attempt that it begins. A `Key` names an attempt on the wire, a `Fence` an ownership.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple


class Key(NamedTuple):
    """The fencing token of an attempt: which one, begun by which ownership of its pool."""

    generation_id: str
    owner_epoch: int
    attempt: int


class Checkpoint(NamedTuple):
    """Where a generation can be gone on with."""

    key: Key
    """The attempt that made it."""
    media_id: str
    """Its bytes in media_store."""
    step: int
    """Steps done, over all outputs."""
    usage: dict[str, int]
    """What all its attempts have used up to there, each step once: fields of pricing.Quantities."""


class Fence(NamedTuple):
    """One ownership of a pool; a take-over raises the epoch, and writes under an older one change nothing."""

    pool: str
    owner_id: str
    epoch: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """A generation that waits."""

    generation_id: str
    tenant_id: str
    model: str
    shape: str
    priority: int
    steps_total: int
    work_us: int  # predicted accelerator time at acceptance
    fixed_us: int = 0  # the part of it that is not its steps
    encode_us: int = 0  # until its last file is made, after its work
    waited_s: float
    deadline_s: float | None = None  # time left
    suspect: bool = False  # was aboard a runner that died: runs alone
    attempt: int = 0  # attempts begun so far
    steps_kept: int = 0  # need not be done again, by its checkpoint
    last_runner_id: str = ""
    model_memory_bytes: int = 0
    model_load_us: int = 0


@dataclass(frozen=True, kw_only=True)
class Runner:
    """A runner with all that is aboard, attempts that are only just decided included."""

    runner_id: str
    node: str
    models: frozenset[str]
    resident: frozenset[str] = frozenset()  # loaded, or being loaded
    memory_total_bytes: int = 0  # 0 means unknown
    memory_free_bytes: int = 0  # what other processes and loaded models leave
    draining: bool = False
    quarantine: str = ""  # why its device gets no work; empty means healthy
    silent_s: float = 0.0  # since its last heartbeat
    foreign_utilization: float = 0.0  # 0 to 1
    step_us: Mapping[tuple[str, str], int] = field(default_factory=dict)  # one row's step by (model, shape)
    kind_us: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # by model and shape, of its pool's slowest
    attempts: int = 0
    has_solo: bool = False
    backlog_us: Mapping[int, int] = field(default_factory=dict)  # predicted accelerator time ahead there, by priority
    loading_us: int = 0  # predicted time until the models are there that are being loaded


class Load(NamedTuple):
    """Work of one model and class that waits, or is aboard a runner: predicted accelerator time that is left of it."""

    model: str
    priority: int
    work_us: int
    runner_id: str = ""  # empty: it waits
    aboard_us: int = 0  # since the first of it came aboard


class FixedCost(NamedTuple):
    """What a generation takes besides its steps: device time before the first, of each output after the last, and its file's."""

    prepare_us: int = 0
    decode_us: int = 0
    encode_us: int = 0


class Accelerator(NamedTuple):
    """One kind of accelerator, as a model's runners on it have measured."""

    product: str
    is_resident: bool  # a runner of this kind has the model loaded
    step_costs_us: Mapping[str, int]  # one row's step by bucket, on the slowest of them (`bucket.Nearest`)
    fixed_costs: Mapping[str, FixedCost]  # by size, on the slowest of them


class Candidate(NamedTuple):
    """A runner that could have the job: when it would be done there (µs from now), the terms of its score in 0..1."""

    runner_id: str
    node: str
    predicted_us: int
    foreign_utilization: float
    terms: dict[str, float]
    score: float


class Decision(NamedTuple):
    """Where a job goes and why: the best candidates, chosen one first; runners refused, counted by reason."""

    runner_id: str  # empty: nowhere now
    predicted_us: int
    candidates: tuple[Candidate, ...]
    rejections: dict[str, int]
    summary: str


class Placement(NamedTuple):
    """A job and the runner it got."""

    job: Job
    decision: Decision


class Attempt(NamedTuple):
    """An attempt that the database holds to be current."""

    key: Key
    tenant_id: str
    model: str
    runner_id: str
    solo: bool
    priority: int
    work_us: int  # predicted accelerator time of all its steps, at acceptance
    fixed_us: int  # the part of it that is not its steps
    steps_total: int
    steps_done: int  # those that its checkpoint kept, too
    aboard_us: int = 0  # since it began


class Begun(NamedTuple):
    """An attempt whose beginning is committed, with what its runner must be told."""

    attempt: Attempt
    model_revision: str
    input: bytes  # CreateGenerationRequest
    deadline: datetime | None
    checkpoint: Checkpoint | None = None
