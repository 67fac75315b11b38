"""The engine as the event loop sees it: a job is awaited like any call.

Jobs come in from `attempt`; they go to the engine's thread, whose events come back through `call_soon_threadsafe` to whoever waits
for that job. `warm` makes one output of each model before anybody asks, so that the first caller does not wait for the loading.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

import PIL.Image

from darkroom import catalog
from darkroom.model_runner.engine import engine as engine_thread
from darkroom.model_runner.engine import errors
from darkroom.model_runner.engine import job as engine_job

End: TypeAlias = engine_job.Ended
News: TypeAlias = engine_job.Started | engine_job.Progressed | engine_job.Checkpointed
OnNews: TypeAlias = Callable[[News], None]


_log = logging.getLogger(__name__)


_PICTURE_STEPS = 4
"""A model that starts from a picture takes the share of them that its own strength says: SDXL's is 0.3."""


class _Waiter(NamedTuple):
    ended: "asyncio.Future[End]"
    on_news: OnNews


class Bridge:
    """Owns the engine that `start` makes with the listener it is given."""

    def __init__(self, start: Callable[[Callable[[engine_job.Event], None]], engine_thread.Engine]) -> None:
        self.unbilled_us = 0
        self._loop = asyncio.get_running_loop()
        self._waiters: dict[str, _Waiter] = {}
        self.engine = start(lambda event: self._post(event))

    async def make(self, job: engine_job.Job, on_news: OnNews) -> End:
        """Have a job done, hearing how it goes; engine errors.Closing if the engine takes no more."""
        waiter = _Waiter(self._loop.create_future(), on_news)
        self._waiters[job.key] = waiter
        try:
            self.engine.submit(job)
            return await waiter.ended
        finally:
            del self._waiters[job.key]

    async def warm(self, entries: Iterable[catalog.ModelEntry]) -> None:
        """Load models by making something of one step; EngineError if one cannot be loaded."""
        for entry in entries:
            end = await self.make(_trial(entry), lambda _: None)
            if isinstance(end, engine_job.Failed):
                if end.fault != "request":
                    raise errors.LoadFailed(f"{entry.name} cannot be preloaded: {end.message}")
                _log.info(
                    "model %s is loaded; it was not tried, since it needs more than defaults: %s",
                    entry.name,
                    end.message,
                )
            self.unbilled_us += end.usage.device_time_us

    async def close(self) -> None:
        """Stop the engine after its current step."""
        await asyncio.to_thread(self.engine.close)

    def _post(self, event: engine_job.Event) -> None:
        self._loop.call_soon_threadsafe(self._hear, event)

    def _hear(self, event: engine_job.Event) -> None:
        waiter = self._waiters.get(event.job_key)
        if waiter is None:
            return
        if isinstance(event, News):
            waiter.on_news(event)
        elif not waiter.ended.done():
            waiter.ended.set_result(event)


def _trial(entry: catalog.ModelEntry) -> engine_job.Job:
    size = entry.defaults.width, entry.defaults.height
    return engine_job.Job(
        key=f"trial/{entry.name}",
        tenant_id="",
        model=entry.name,
        prompt="",
        width=entry.defaults.width,
        height=entry.defaults.height,
        frames=max(1, entry.defaults.num_frames),
        frames_per_second=entry.defaults.frames_per_second,
        duration_us=entry.defaults.duration_us,
        steps=_PICTURE_STEPS if entry.source_image == "required" else 1,
        guidance_scale=entry.defaults.guidance_scale,
        seeds=(0,),
        source_image=PIL.Image.new("RGB", size, "grey") if entry.source_image == "required" else None,
        mask_image=PIL.Image.new("RGB", size, "white") if entry.mask_image == "required" else None,
        max_sequence_length=entry.max_sequence_length,
    )
