"""The generic family makes, step by step and beside others, what each pipeline makes by itself."""

import dataclasses
import io
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import PIL.Image
import pytest
import torch
from torch import Tensor

from darkroom.model_runner.engine import errors
from darkroom.model_runner.engine.families import pipeline
from darkroom.model_runner.engine.job import (
    AdapterUse,
    Cancelled,
    Checkpointed,
    Job,
    ModelSpec,
    Progressed,
    Suspended,
)
from darkroom.model_runner.engine.state import State
from tests.model_runner.engine.families import leaving, residents, tiny_media

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")  # diffusers' vocoder uses the old one


@pytest.fixture(scope="module")
def models(specs: Mapping[str, ModelSpec], tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSpec]:
    folder = tmp_path_factory.mktemp("pipelines")
    tiny_media.wan(folder / "video")
    tiny_media.wan(folder / "from_image", image=True)
    tiny_media.stable_audio(folder / "audio")
    media = {"video": "video", "from_image": "video", "audio": "audio"}
    made = {name: residents.spec(folder / name, family="pipeline", medium=kind) for name, kind in media.items()}
    return made | {"image": residents.spec(specs["true_cfg"].path, family="pipeline")}


@pytest.fixture(scope="module")
def families(models: dict[str, ModelSpec]) -> dict[str, pipeline.Pipeline]:
    return {name: residents.load(pipeline, model) for name, model in models.items()}


@pytest.fixture
def job(make_job: Any) -> Any:
    def make(name: str, **changes: Any) -> Job:
        values: dict[str, Any] = {"model": name, "max_sequence_length": tiny_media.TOKENS}
        if name in ("video", "from_image"):
            values |= {"frames": 5, "frames_per_second": 8}
        if name == "audio":
            values |= {"width": 0, "height": 0, "duration_us": 20_000}
        if name == "from_image":
            values["source_image"] = tiny_media.picture()
        made: Job = make_job(str(changes), **(values | changes))
        return made

    return make


def reference(model: ModelSpec, **arguments: Any) -> Tensor:
    own = diffusers.DiffusionPipeline.from_pretrained(model.path)
    own.set_progress_bar_config(disable=True)
    with torch.inference_mode():
        made = own(**arguments, generator=torch.Generator().manual_seed(7), output_type="pt")
    result: Tensor = getattr(made, {"image": "images", "video": "frames", "audio": "audios"}[model.medium])[0]
    return result


@torch.inference_mode()
def make(family: pipeline.Pipeline, *jobs: Job) -> list[Tensor]:
    """Make all jobs' media, all in turns."""
    states = [state for rows in family.prepare(jobs) for state in rows]
    while going := [index for index, state in enumerate(states) if state.step < state.steps_total]:
        batch = [states[index] for index in going]
        for index, state in zip(going, family.advance(batch, family.denoise(batch)), strict=True):
            assert state.step == states[index].step + 1
            states[index] = state
    return family.decode(states)


TEXT = {"prompt": "a red circle", "num_inference_steps": 3}


def test_pictures(models: Any, families: Any, job: Any) -> None:
    asked = job("image", prompt="a red circle", negative_prompt="green", steps=3, guidance_scale=2.5, width=48)
    (made,) = make(families["image"], asked)
    call = {"negative_prompt": "green", "true_cfg_scale": 2.5, "width": 48, "height": 32, "max_sequence_length": 8}
    assert made.shape == (3, 32, 48)
    torch.testing.assert_close(made, reference(models["image"], **TEXT, **call), atol=1e-6, rtol=0)


def test_videos_from_text_and_from_pictures(models: Any, families: Any, job: Any) -> None:
    call = {"width": 32, "height": 32, "num_frames": 5, "guidance_scale": 2.5, "max_sequence_length": 8}
    for name, more in (("video", {}), ("from_image", {"image": PIL.Image.open(io.BytesIO(tiny_media.picture()))})):
        (made,) = make(families[name], job(name, prompt="a red circle", steps=3, guidance_scale=2.5))
        assert made.shape == (5, 3, 32, 32)
        expected = reference(models[name], **TEXT, **call, negative_prompt="", **more)
        torch.testing.assert_close(made, expected, atol=1e-6, rtol=0)


def test_sounds(models: Any, families: Any, job: Any) -> None:
    asked = job("audio", prompt="a red circle", steps=3, guidance_scale=2.5, negative_prompt="noise")
    (made,) = make(families["audio"], asked)
    call = {"audio_end_in_s": 0.02, "guidance_scale": 2.5, "negative_prompt": "noise"}
    assert made.shape == (2, 160)
    torch.testing.assert_close(made, reference(models["audio"], **TEXT, **call), atol=1e-6, rtol=0)
    assert families["audio"].samples_per_second == 8000


def test_generations_of_one_pipeline_take_turns_without_minding_each_other(families: Any, job: Any) -> None:
    """The pipeline object remembers guidance and its scheduler's history; each call has its own."""
    jobs = [
        job("video", prompt="a red circle", steps=4, guidance_scale=2.5),
        job("video", prompt="a blue square", steps=2, guidance_scale=1.0, seeds=(8,)),
        job("video", prompt="noise", steps=5, guidance_scale=6.0, seeds=(9,), tier="DRAFT"),
        job("video", prompt="noise", steps=5, guidance_scale=6.0, seeds=(9,)),
    ]
    together = make(families["video"], *jobs)
    for asked, made in zip(jobs, together, strict=True):
        torch.testing.assert_close(made, make(families["video"], asked)[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["image", "audio"])
def test_leaves_its_device_and_returns_with_every_bit(families: Any, job: Any, name: str) -> None:
    leaving.and_returning(families[name], lambda: make(families[name], job(name, steps=2)))


def test_a_draft_skips_blocks_and_leaves_the_model_as_it_was(families: Any, job: Any) -> None:
    transformer = families["video"]._pipeline.transformer
    forwards: list[int] = []
    hook = transformer.blocks[1].attn1.to_q.register_forward_hook(lambda *_: forwards.append(1))
    plain, draft = (make(families["video"], job("video", steps=6, tier=tier))[0] for tier in ("LOSSLESS", "DRAFT"))
    counted = len(forwards)
    make(families["video"], job("video", steps=6))
    hook.remove()
    assert len(forwards) - counted == 12  # 6 steps, each with and without the prompt
    assert 12 < counted < 24
    assert not torch.equal(plain, draft)


def test_a_cancelled_generation_stops_at_its_step(families: Any, job: Any) -> None:
    family = families["video"]
    with torch.inference_mode():
        ((state,),) = family.prepare([job("video", steps=50)])
        (state,) = family.advance([state], family.denoise([state]))
    assert any(thread.name == "pipeline" for thread in threading.enumerate())
    del state
    for _ in range(1000):
        if not any(thread.name == "pipeline" for thread in threading.enumerate()):
            return
        time.sleep(0.01)
    raise AssertionError("the pipeline goes on")


def test_an_engine_cancels_a_pipeline_at_a_step_and_hands_it_back_unsaved(models: Any, job: Any, record: Any) -> None:
    recorder = record([models["video"]], checkpoint_interval_us=1)
    keys = ("cancelled", "drained")

    def react(event: Any) -> None:
        if isinstance(event, Progressed) and event.job_key == "cancelled":
            recorder.engine.cancel("cancelled")
        elif isinstance(event, Progressed):
            recorder.engine.drain()

    recorder.react = react
    recorder.submit(*(dataclasses.replace(job("video", steps=50), key=key) for key in keys))
    cancelled, drained = recorder.last(*keys)
    assert isinstance(cancelled, Cancelled)
    assert isinstance(drained, Suspended)
    assert drained.data is None
    assert not any(isinstance(event, Checkpointed) for event in recorder.events)
    assert cancelled.usage.steps < 50


def test_what_has_begun_cannot_be_saved(families: Any, job: Any) -> None:
    ((state,),) = families["video"].prepare([job("video")])
    assert isinstance(state, State)
    assert not state.is_portable


@pytest.mark.parametrize(
    ("name", "changes", "field"),
    [
        ("video", {"source_image": b""}, "source_image"),
        ("video", {"strength": 0.5}, "strength"),
        ("video", {"sampler": "ddim"}, "sampler"),
        ("video", {"extras": {"colour": 1}}, "extras.colour"),
        ("video", {"extras": {"generator": 1}}, "extras.generator"),
        ("from_image", {"source_image": b"no picture"}, "source_image"),
    ],
)
def test_what_it_cannot_make_is_refused_by_name(families: Any, job: Any, name: str, changes: Any, field: str) -> None:
    with pytest.raises(errors.BadRequest, match="^" + field.replace(".", r"\.") + ": "):
        families[name].prepare([job(name, **{"source_image": None} | changes if name == "video" else changes)])


def test_extras_reach_the_pipeline_and_what_it_refuses_is_the_caller_s_fault(families: Any, job: Any) -> None:
    ((state,),) = families["video"].prepare([job("video", extras={"guidance_scale_2": 3.0})])
    with pytest.raises(errors.BadRequest, match="guidance_scale_2"):
        families["video"].denoise([state])


def test_a_lora_is_refused(families: Any, tmp_path: Path) -> None:
    (tmp_path / "lora.safetensors").write_bytes(b"")
    with pytest.raises(errors.BadAdapter):
        families["video"].bank.get(AdapterUse(path=tmp_path / "lora.safetensors", digest="00", scale=1.0))
