"""The nouns that cross the engine's border.

In: `ModelSpec`s and an `EngineConfig` at the start, then `Job`s. Out: events, each naming its job: one `Started`, any
number of `Progressed` and `Checkpointed`, then exactly one of `Finished`, `Failed`, `Cancelled`, `Suspended`. All are frozen
and free of torch types, so that they may be handed between threads. Next: `engine` takes them.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import PIL.Image

from darkroom.model_runner.engine.errors import Fault
from darkroom.model_runner.fixed_cost import FixedCost
from darkroom.model_runner.step_cost import StepCost

Guidance = Literal["true_cfg", "embedded", "none"]
Medium = Literal["image", "video", "audio"]
Dtype = Literal["float32", "float16", "bfloat16"]
Tier = Literal["LOSSLESS", "HIGH", "DRAFT"]
Picture: TypeAlias = bytes | PIL.Image.Image
JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"


class Priority(enum.IntEnum):
    """A generation's class; the lowest number goes first."""

    INTERACTIVE = 0
    STANDARD = 1
    BATCH = 2


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How the engine uses its accelerator."""

    device: str = "cpu"
    """A torch device: `cpu`, `cuda`, `cuda:1`."""
    dtype: Dtype = "float32"
    """What weights are cast to when they are loaded, and computed in. Latents between steps are always float32."""
    batch_rows_max: int = 8
    """Rows in one forward, at least 1; how many pay off is measured."""
    rows_live_max: int = 32
    """Rows of one class that hold a state on the device at once; a lone generation with more is still taken. At least 1."""
    slice_steps_max: int = 8
    """Steps that the same rows take before the loop asks who is next, if nobody came or went. At least 1."""
    slice_us_max: int = 200_000
    """The same as time; one step is always taken."""
    ageing_us: int = 10_000_000
    """Whoever has waited so long counts one class higher, and goes first there. At least 1."""
    urgent_slower_max: float = 1.0
    """How many times longer than alone the longest urgent generations may take because less urgent ones share their steps."""
    step_costs_path: Path | None = None
    """File that keeps what steps and generations cost from one process to the next."""
    checkpoint_interval_us: int = 30_000_000
    """Between two checkpoints of a generation that runs so long; 0 makes none."""
    encode_threads: int = 2
    """Threads that read pictures and make files; one more reads weights for their digests. At least 1."""
    memory_bytes_max: int = 8 << 30
    """Resident models together, by the need that their catalogue entries state."""
    adapters_resident_max: int = 32
    """LoRAs kept on the device for each model; the longest unused goes first. At least 1."""
    embeddings_bytes_max: int = 256 << 20
    """Prompt embeddings kept on the device; 0 keeps none."""
    host_cache_bytes_max: int = 0
    """Host memory for models that have left the device, pinned on CUDA; 0 keeps none."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What the engine reads of a catalogue entry."""

    name: str
    family: str
    path: Path
    """A directory in diffusers' layout."""
    revision: str
    """`sha256:` and the digest of the weight files as `revision.digest` computes it."""
    guidance: Guidance
    memory_bytes: int
    """Resident need in this runner's dtype."""
    medium: Medium = "image"
    """What it makes; asked of families that could make anything."""


@dataclass(frozen=True, kw_only=True)
class AdapterUse:
    """One LoRA of a generation: a safetensors file that the runner has fetched, its digest and its strength."""

    path: Path
    digest: str
    scale: float


@dataclass(frozen=True, kw_only=True)
class Job:
    """One generation to make, its parameters already within the model's limits."""

    key: str
    """Names this attempt in events and cancels; unique among the jobs that the engine holds."""
    tenant_id: str
    model: str
    prompt: str
    negative_prompt: str = ""
    width: int
    height: int
    steps: int
    guidance_scale: float
    seeds: tuple[int, ...]
    """One image for each."""
    adapters: tuple[AdapterUse, ...] = ()
    max_sequence_length: int
    """Tokens of the text encoders that take a length, 1 to 512."""
    solo: bool = False
    """Whether it must share no batch, being suspected of killing runners."""
    priority: Priority = Priority.STANDARD
    deadline_us: int | None = None
    """On `time.monotonic`: when its caller stops caring."""
    sampler: str = ""
    """By its name in `samplers`; empty: the model's own."""
    tier: Tier = "LOSSLESS"
    frames: int = 1
    frames_per_second: int = 0
    duration_us: int = 0
    """Of a sound."""
    source_image: Picture | None = None
    """The picture to start from or to edit; its file, until `reading` has read it for `prepare`."""
    mask_image: Picture | None = None
    """The mask likewise: white is painted anew."""
    strength: float | None = None
    """How much of the source image goes, 0 to 1; None: the model's own."""
    extras: Mapping[str, JSON] = field(default_factory=dict)
    """What only this model takes, checked against its schema already."""
    checkpoint: bytes | None = None
    """A state file to go on from; one that does not fit this model is refused, and step 0 is next."""

    @property
    def files(self) -> dict[str, Picture]:
        """The pictures that it starts from, by their fields."""
        given = {"source_image": self.source_image, "mask_image": self.mask_image}
        return {name: file for name, file in given.items() if file is not None}


class Output(NamedTuple):
    """One finished file."""

    data: bytes
    media_type: str
    """`image/png`, `video/mp4`, `audio/flac`."""
    width: int
    height: int
    seed: int
    frames: int = 1
    duration_us: int = 0
    """Of a video or a sound."""
    tier: Tier = "LOSSLESS"
    """In which it was made, not only asked for."""


class Stage(NamedTuple):
    """Wall-clock time between a generation's arrival and its end, spent in one place."""

    name: str
    """In order: `wait`, `load` (its model, if not resident), `adapters`, `prepare`, `denoise`, `decode`, `encode`."""
    wall_us: int


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What one generation has used so far. Times are its share of the engine's busy time, in integer microseconds."""

    adapters_us: int
    prepare_us: int
    denoise_us: int
    decode_us: int
    steps: int
    """Denoising steps, summed over its images."""
    cached_steps: int = 0
    """Those of the steps that reused most of an earlier one."""
    images: int
    """Finished images."""
    pixels: int
    """Pixels of the finished images together, or of all frames."""
    media_duration_us: int = 0
    """How long the finished videos or sounds play."""

    @property
    def device_time_us(self) -> int:
        """The four times together."""
        return self.adapters_us + self.prepare_us + self.denoise_us + self.decode_us


@dataclass(frozen=True)
class Started:
    """The model is resident and the generation holds its states."""

    job_key: str
    resumed_step: int = 0
    """Steps done by the checkpoint that it goes on from, summed over its images; 0: from the start."""


@dataclass(frozen=True)
class Progressed:
    """The generation went on: steps are summed over its images."""

    job_key: str
    steps_done: int
    steps_total: int
    remaining_us: int
    """What the rest would take at the pace so far, wall clock."""


@dataclass(frozen=True)
class Finished:
    """The generation is done; `outputs` in the order of the seeds."""

    job_key: str
    outputs: tuple[Output, ...]
    usage: Usage
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Failed:
    """The generation has ended without a result."""

    job_key: str
    code: str
    message: str
    fault: Fault
    usage: Usage


@dataclass(frozen=True)
class Cancelled:
    """The generation was ended by `cancel`."""

    job_key: str
    usage: Usage


@dataclass(frozen=True)
class Checkpointed:
    """The generation was saved while it goes on; it can be gone on with elsewhere from here."""

    job_key: str
    data: bytes
    """A state file, as `checkpoint` writes it."""
    usage: Usage
    """What it has used up to there: the steps of it are those that the file spares."""


@dataclass(frozen=True)
class Suspended:
    """The generation was ended by `drain`, or for a more urgent one's memory, to be gone on with elsewhere."""

    job_key: str
    data: bytes | None
    """A state file; None for one that had not begun."""
    usage: Usage


Ended = Finished | Failed | Cancelled | Suspended
"""A generation's last event."""

Event = Started | Progressed | Checkpointed | Ended


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The engine as a heartbeat tells it."""

    busy_us: int
    """Time the engine has worked since it started. Usage of all generations and `platform_us` add up to it exactly."""
    platform_us: int
    """The part that no generation is charged for: loading models and slices that failed."""
    jobs_waiting: int
    rows_live: int
    models: tuple[str, ...]
    """Resident, longest unused first."""
    step_costs: tuple[StepCost, ...]
    slowdown: float
    """How much longer steps take of late than the table says, at least 1.0."""
    fixed_costs: tuple[FixedCost, ...] = ()
    texts_remembered: int = 0
    """Texts whose embeddings were there already when they were wanted; the others were encoded."""
    texts_encoded: int = 0
    merged_bytes: int = 0
    """Device memory that weights with merged LoRAs take, beside the models' own."""
    host_cache_bytes: int = 0
    """Host memory that models take which have left the device."""
