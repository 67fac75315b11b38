"""A loop that is turned by hand, with a family that can be computed by hand and a clock that moves as it works.

In: jobs. Out: which seeds were in each forward, and the events of each job.
"""

import io
from pathlib import Path
from typing import Any

import PIL.Image

from darkroom.model_runner import step_cost
from darkroom.model_runner.engine import measured, saving
from darkroom.model_runner.engine.families import Load
from darkroom.model_runner.engine.job import Ended, EngineConfig, Event, Job, Output
from darkroom.model_runner.engine.step_loop import StepLoop
from tests.model_runner.engine import counting


class Harness:
    """Two models, `counting` and `other`, of one byte each, and `large`, of two."""

    def __init__(self, path: Path, *, costs: list[step_cost.StepCost] | None = None, **config: Any) -> None:
        self.family = counting.Counting()
        self.clock = self.family.clock
        self.pool = counting.Inline()
        self.events: list[Event] = []
        families: dict[str, Load] = {"counting": self.family.load}
        specs = [
            counting.spec(path),
            counting.spec(path, name="other"),
            counting.spec(path, name="large", memory_bytes=2),
        ]
        self.loop = StepLoop(
            EngineConfig(**config),
            specs,
            self.events.append,
            families=families,
            pool=self.pool,
            now_us=self.clock,
            costs=measured.Costs(counting.costs() if costs is None else costs),
        )

    def turn(self, count: int = 1) -> list[list[int]]:
        """Turn the loop until it has run so many steps, or has nothing to do; return the seeds in each forward."""
        before = len(self.family.forwards)
        while len(self.family.forwards) < before + count and self.loop.turn():
            pass
        return self.family.forwards[before:]

    def run(self) -> None:
        while not self.is_idle:
            assert self.loop.turn() or self.is_idle, "stuck"

    @property
    def is_idle(self) -> bool:
        return not self.loop._floor.generations

    def checkpoint(self, key: str) -> None:
        """Save a generation now, if it is here, and let it go on."""
        if generation := self.loop._floor.generations.get(key):
            saving.tell(self.loop._floor, generation)

    def of(self, key: str) -> list[Event]:
        return [event for event in self.events if event.job_key == key]

    def end(self, key: str) -> Any:
        (end,) = [event for event in self.of(key) if isinstance(event, Ended)]
        assert self.of(key)[-1] is end
        return end


def job(key: str, seed: int = 0, **changes: Any) -> Job:
    """Return a job of one image at 32x32, four steps, not guided."""
    values: dict[str, Any] = {
        "tenant_id": "ten_1",
        "model": "counting",
        "prompt": "a red circle",
        "width": 32,
        "height": 32,
        "steps": 4,
        "guidance_scale": 1.0,
        "seeds": (seed,),
        "max_sequence_length": 8,
    }
    return Job(key=key, **(values | changes))


def grey(output: Output) -> int:
    """Return the level of a picture's first pixel: how many steps were taken."""
    pixel = PIL.Image.open(io.BytesIO(output.data)).getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return int(pixel[0])
