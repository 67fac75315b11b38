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
        self.adapters_us = self.prepare_us = self.denoise_us = self.decode_us = 0
        self.outputs: dict[int, Output] = {}
        self._steps = [0] * len(job.seeds)
        self._walls: dict[str, int] = {}
        self._marked_us = now_us
        self.ready_us = now_us  # when its states were there; what the pace of steps is taken from

    def mark(self, stage: str, *, now_us: int) -> None:
        """Count the wall-clock time since the last mark as `stage`."""
        self._walls[stage] = self._walls.get(stage, 0) + now_us - self._marked_us
        self._marked_us = now_us

    def stepped(self, image: int, step: int) -> None:
        """Note how far an image is."""
        self._steps[image] = step

    def progress(self, *, now_us: int) -> Progressed:
        """Return how far it is."""
        done, total = sum(self._steps), self.job.steps * len(self._steps)
        return Progressed(self.job.key, done, total, (now_us - self.ready_us) * (total - done) // max(done, 1))

    def usage(self) -> Usage:
        """Return what it has used so far."""
        return Usage(
            adapters_us=self.adapters_us,
            prepare_us=self.prepare_us,
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
