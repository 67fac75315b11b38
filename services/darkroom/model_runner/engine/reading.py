"""Reading: the files that a generation starts from become pictures, before it is prepared.

In: waiting generations whose model is resident and knows in what size it wants pictures. Out: those pictures, with the
generation, or its end if a file is none. Decoding and resizing are not the device's work and take up to a second, so other
threads do them, while the device goes on; their time is nobody's device time. All but one of them at most: else whoever sends
pictures of the largest size would hold up the files that others wait for, and their tenants take turns for the same reason. Who
has waited long counts as more urgent, as everywhere.
Next: `admission` prepares the generation.
"""

from concurrent.futures import Future

import PIL.Image

from darkroom.model_runner import batch
from darkroom.model_runner.engine import pictures
from darkroom.model_runner.engine.floor import Floor
from darkroom.model_runner.engine.generation import Generation
from darkroom.model_runner.engine.job import Job, Picture

PIXELS_AHEAD_MAX = 64 << 20
"""Of pictures, at 3 bytes each, whose generations and those more urgent wait; when reached, no more are begun."""


class Reading:
    """The pictures that are being read; belongs to the engine's thread."""

    def __init__(self, floor: Floor) -> None:
        self._floor = floor
        self._under_way: dict[Generation, Future[dict[str, PIL.Image.Image]]] = {}
        self._begun_us: dict[str, int] = {}  # when a picture of each tenant that waits was last begun

    def go_on(self) -> None:
        """Have pictures read, those of the most urgent first, and take what is ready."""
        self._begin()
        while self._collect():
            self._begin()

    def _begin(self) -> None:
        floor = self._floor
        while len(self._under_way) < max(1, floor.config.encode_threads - 1):
            unread = [generation for generation in floor.waiting if self._can_be_read(generation)]
            first = min(unread, key=self._urgency, default=None)
            if first is None or self._pixels_ahead(first) >= PIXELS_AHEAD_MAX:
                return
            first.mark("wait", now_us=floor.now_us())
            waiting = {generation.job.tenant_id for generation in floor.waiting}
            self._begun_us = {tenant: us for tenant, us in self._begun_us.items() if tenant in waiting}
            self._begun_us[first.job.tenant_id] = floor.now_us()
            sizing = floor.family(first.job.model).sizing
            self._under_way[first] = reading = floor.pool.submit(read, first.job, sizing)
            reading.add_done_callback(lambda _: floor.wake())

    def _urgency(self, generation: Generation) -> tuple[batch.Level, int, int]:
        begun_us = self._begun_us.get(generation.job.tenant_id, -1)
        return self._floor.level(generation), begun_us, generation.arrived_us

    def _can_be_read(self, generation: Generation) -> bool:
        is_resident = self._floor.residency.has(generation.job.model)
        return not generation.is_read and is_resident and generation not in self._under_way

    def _pixels_ahead(self, generation: Generation) -> int:
        """Those of less urgent ones do not count: what is urgent does not wait for them."""
        level = self._floor.level(generation)
        peers = (other for other in self._floor.waiting if self._floor.level(other) <= level)
        return sum(picture.width * picture.height for other in peers for picture in other.pictures.values())

    def _collect(self) -> bool:
        """Whether there was anything to take."""
        ready = [(generation, reading) for generation, reading in self._under_way.items() if reading.done()]
        for generation, reading in ready:
            del self._under_way[generation]
            if not self._floor.is_live(generation):
                continue
            self._floor.stirred = True
            if isinstance(error := reading.exception(), Exception):
                self._floor.fail(generation, error)
            else:
                generation.pictures = reading.result()
                generation.mark("prepare", now_us=self._floor.now_us())
        return bool(ready)


def read(job: Job, sizing: pictures.Sizing) -> dict[str, PIL.Image.Image]:
    """Return the pictures of a job's files in the size that its family wants; BadRequest names the field of what is none."""
    return {name: _read(file, name, job, sizing) for name, file in job.files.items()}


def _read(file: Picture, name: str, job: Job, sizing: pictures.Sizing) -> PIL.Image.Image:
    """Only what is sized is held while the next is read: a picture may have a quarter of a gigabyte before."""
    picture = pictures.read(file, field=name)
    return pictures.sized(picture, sizing(job, picture.size))
