"""One generation inside the engine: what is left to do, what it has used, where its time went.

In: its job, then what each part of the loop measured. Out: the `Usage` and `Stage`s of its last event, and its
progress. Next: `step_loop` drops it once that event is out.
"""

from typing import NamedTuple

from darkroom.model_runner.engine.job import Job, Output, Progressed, Stage, Usage
from darkroom.model_runner.engine.state import State


class Generation:
    """A job that the engine has accepted; belongs to the engine's thread."""

    def __init__(self, job: Job, *, now_us: int) -> None:
        self.job = job
        self.adapter_us = self.encode_us = self.denoise_us = self.decode_us = 0
        self.outputs: dict[int, Output] = {}
        self._steps = [0] * len(job.seeds)
        self._walls: dict[str, int] = {}
        self._marked_us = now_us
        self.ready_us = now_us  # when its states were there; what the pace of steps is taken from

    def mark(self, stage: str, *, now_us: int) -> None:
        """Count the wall-clock time since the last mark as `stage`."""
        self._walls[stage] = self._walls.get(stage, 0) + now_us - self._marked_us
        self._marked_us = now_us

    def stepped(self, image: int, step: int) -> bool:
        """Note an image's step; True if all images have now come one step further."""
        before = min(self._steps)
        self._steps[image] = step
        return min(self._steps) > before

    def progress(self, *, now_us: int) -> Progressed:
        """Return how far all its images are."""
        taken, total = sum(self._steps), self.job.steps * len(self._steps)
        remaining_us = (now_us - self.ready_us) * (total - taken) // max(taken, 1)
        return Progressed(self.job.key, min(self._steps), self.job.steps, len(self.outputs), remaining_us)

    def usage(self) -> Usage:
        """Return what it has used so far."""
        return Usage(
            adapter_us=self.adapter_us,
            encode_us=self.encode_us,
            denoise_us=self.denoise_us,
            decode_us=self.decode_us,
            steps=sum(self._steps),
            images=len(self.outputs),
            pixels=sum(output.width * output.height for output in self.outputs.values()),
        )

    def stages(self) -> tuple[Stage, ...]:
        """Return where its wall-clock time went, in order."""
        return tuple(Stage(name, wall_us) for name, wall_us in self._walls.items())


class Row(NamedTuple):
    """One image of a generation, waiting for its next step."""

    generation: Generation
    image: int
    state: State
