"""Jobs awaited across the border to the engine's thread."""

import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from darkroom import catalog
from darkroom.model_runner.engine import engine as engine_thread
from darkroom.model_runner.engine import errors
from darkroom.model_runner.engine import job as engine_job
from darkroom.model_runner.loop import bridge
from tests.model_runner import world as worlds

JOB = {
    "key": "a",
    "tenant_id": "ten_1",
    "model": worlds.MODEL,
    "prompt": "a red circle",
    "width": 32,
    "height": 32,
    "steps": 3,
    "guidance_scale": 3.0,
    "seeds": (7,),
    "max_sequence_length": 12,
}


@pytest.fixture
def entry(catalog_dir: Path) -> catalog.ModelEntry:
    return catalog.load(catalog_dir)[worlds.MODEL]


@pytest.fixture
async def spanned(specs: dict[str, engine_job.ModelSpec], entry: catalog.ModelEntry) -> AsyncIterator[bridge.Bridge]:
    spec = specs["true_cfg"]
    known = engine_job.ModelSpec(**(vars(spec) | {"name": worlds.MODEL}))
    gone = engine_job.ModelSpec(**(vars(spec) | {"name": "gone", "path": spec.path / "gone"}))

    def start(on_event: Callable[[engine_job.Event], None]) -> engine_thread.Engine:
        return engine_thread.Engine(engine_job.EngineConfig(), [known, gone], on_event)

    made = bridge.Bridge(start)
    yield made
    await made.close()


async def test_a_job_is_awaited_and_its_progress_heard(spanned: bridge.Bridge) -> None:
    heard: list[bridge.News] = []
    end = await spanned.make(engine_job.Job(**JOB), heard.append)  # type: ignore[arg-type]
    assert isinstance(end, engine_job.Finished)
    assert isinstance(heard[0], engine_job.Started)
    assert [event.steps_done for event in heard if isinstance(event, engine_job.Progressed)] == [1, 2, 3]
    assert end.outputs[0].data.startswith(b"\x89PNG")


async def test_a_model_is_warmed_at_nobodys_cost(spanned: bridge.Bridge, entry: catalog.ModelEntry) -> None:
    await spanned.warm([entry])
    seen = spanned.engine.snapshot()
    assert seen.models == (worlds.MODEL,)
    assert 0 < spanned.unbilled_us == seen.busy_us - seen.platform_us


async def test_a_model_that_cannot_be_loaded_is_named(spanned: bridge.Bridge, entry: catalog.ModelEntry) -> None:
    gone = catalog.ModelEntry(**(vars(entry) | {"name": "gone"}))
    with pytest.raises(errors.LoadFailed, match="gone cannot be preloaded"):
        await spanned.warm([gone])


async def test_a_model_that_needs_more_than_defaults_is_loaded_and_not_tried(
    spanned: bridge.Bridge, entry: catalog.ModelEntry, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    odd = dataclasses.replace(entry, defaults=dataclasses.replace(entry.defaults, width=33))
    await spanned.warm([odd])
    assert spanned.engine.snapshot().models == (worlds.MODEL,)
    assert f"model {worlds.MODEL} is loaded; it was not tried" in caplog.text


async def test_a_model_of_pictures_is_tried_with_one(
    spanned: bridge.Bridge, entry: catalog.ModelEntry, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    heard: list[engine_job.Job] = []
    make = spanned.make
    spanned.make = lambda job, on_news: heard.append(job) or make(job, on_news)  # type: ignore[func-returns-value,method-assign]
    await spanned.warm([dataclasses.replace(entry, source_image="required", mask_image="required")])
    assert set(heard[0].files) == {"source_image", "mask_image"}
    assert "not tried" not in caplog.text


async def test_a_closed_engine_takes_no_job(spanned: bridge.Bridge) -> None:
    await spanned.close()
    with pytest.raises(errors.Closing):
        await spanned.make(engine_job.Job(**JOB), print)  # type: ignore[arg-type]
