"""One generation inside the engine: what is left to do, what it has used, where its time went.

In: its job, then what each part of the loop measured. Out: the `Usage` and `Stage`s of its last event, and its
progress. Next: `floor` drops it once that event is out.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import PIL.Image

from darkroom.model_runner.engine.job import Job, Output, Progressed, Stage, Usage
from darkroom.model_runner.engine.state import State

Busy = Literal["adapters", "prepare", "denoise", "decode"]
"""What device time of a generation goes into."""


class Generation:
    """A job that the engine has accepted; belongs to the engine's thread."""

    def __init__(self, job: Job, *, now_us: int) -> None:
        self.job = job
        self.arrived_us = now_us
        self.busy_us: dict[Busy, int] = {"adapters": 0, "prepare": 0, "denoise": 0, "decode": 0}
        self.outputs: dict[int, Output] = {}
        self.pictures: dict[str, PIL.Image.Image] = {}  # what its files hold, from when they are read until it begins
        self.load_us = 0  # how long its model took to load while it waited
        self.ready_us = now_us  # when its states were there; what the pace of steps is taken from
        self.saved_us = now_us  # when it was last saved as a checkpoint
        self._steps = [0] * len(job.seeds)
        self._cached_steps = [0] * len(job.seeds)
        self._steps_total = job.steps * len(job.seeds)
        self._steps_spared = self._cached_spared = 0
        self._used: Usage | None = None
        self._walls: dict[str, int] = {}
        self._marked_us = now_us

    @property
    def is_read(self) -> bool:
        """Whether all its files, if it has any, are read."""
        return self.pictures.keys() == self.job.files.keys()

    def job_with_pictures(self) -> Job:
        """Return its job with pictures in place of files."""
        pictures: dict[str, Any] = {**self.pictures}
        return dataclasses.replace(self.job, **pictures)

    def mark(self, stage: str, *, now_us: int) -> None:
        """Count the wall-clock time since the last mark as `stage`."""
        self._walls[stage] = self._walls.get(stage, 0) + now_us - self._marked_us
        self._marked_us = now_us

    def begin(
        self, images: Sequence[State | Output], used: Usage | None = None, spent: Sequence[Stage] = (), *, now_us: int
    ) -> int:
        """Note that its states are there; return the steps that a checkpoint spares it.

        A source image may leave fewer steps than the job says. From a checkpoint come finished files too, and what was
        `used` for them and for the steps so far, and the time `spent`.
        """
        for name, wall_us in spent:
            self._walls[name] = self._walls.get(name, 0) + wall_us
        self.ready_us = self.saved_us = now_us
        self.outputs = {index: image for index, image in enumerate(images) if isinstance(image, Output)}
        self._steps = [image.step if isinstance(image, State) else self.job.steps for image in images]
        self._steps_spared = sum(self._steps)
        self._cached_steps = [image.cached_steps if isinstance(image, State) else 0 for image in images]
        self._cached_spared = sum(self._cached_steps)
        self._steps_total = sum(image.steps_total if isinstance(image, State) else self.job.steps for image in images)
        self._used = used
        self.pictures = {}
        return self._steps_spared

    def stepped(self, image: int, state: State) -> None:
        """Note how far an image is."""
        self._steps[image] = state.step
        self._cached_steps[image] = state.cached_steps

    @property
    def steps_done(self) -> int:
        """Steps done, summed over its images."""
        return sum(self._steps)

    @property
    def has_stepped(self) -> bool:
        """Whether it has taken a step here."""
        return self.steps_done > self._steps_spared

    def progress(self, *, now_us: int) -> Progressed:
        """Return how far it is."""
        done, total = self.steps_done, self._steps_total
        each_us = (now_us - self.ready_us) / max(done - self._steps_spared, 1)
        return Progressed(self.job.key, done, total, round(each_us * (total - done)))

    def usage(self) -> Usage:
        """Return what it has used so far, what a checkpoint brought with it included."""
        before = self._used or Usage(
            adapters_us=0, prepare_us=0, denoise_us=0, decode_us=0, steps=0, images=0, pixels=0
        )
        return Usage(
            adapters_us=before.adapters_us + self.busy_us["adapters"],
            prepare_us=before.prepare_us + self.busy_us["prepare"],
            denoise_us=before.denoise_us + self.busy_us["denoise"],
            decode_us=before.decode_us + self.busy_us["decode"],
            steps=before.steps + self.steps_done - self._steps_spared,
            cached_steps=before.cached_steps + sum(self._cached_steps) - self._cached_spared,
            images=sum(output.media_type.startswith("image/") for output in self.outputs.values()),
            pixels=sum(output.width * output.height * output.frames for output in self.outputs.values()),
            media_duration_us=sum(output.duration_us for output in self.outputs.values()),
        )

    def stages(self) -> tuple[Stage, ...]:
        """Return where its wall-clock time went, in order, what a checkpoint brought with it included."""
        return tuple(Stage(name, wall_us) for name, wall_us in self._walls.items())


@dataclass(eq=False)
class Row:
    """One image (or video, or sound) of a generation, on its way."""

    generation: Generation
    image: int
    state: State
    waiting_since_us: int
    """When it last had the device."""
    decode_us: int = 0
    """Its share of decoding."""
    is_decoded: bool = False
    """Whether it needs the device no more: its file is being made."""

    @property
    def is_done(self) -> bool:
        """Whether its steps are done."""
        return self.state.step >= self.state.steps_total

    @property
    def model(self) -> str:
        """The model that it needs."""
        return self.generation.job.model
