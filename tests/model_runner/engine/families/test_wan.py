"""The wan family makes what diffusers' WanPipeline and WanImageToVideoPipeline make, alone and in mixed batches."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import diffusers
import PIL.Image
import pytest
import torch
from torch import Tensor

from darkroom.model_runner.engine import checkpoint, errors, quantize
from darkroom.model_runner.engine.families import wan
from darkroom.model_runner.engine.job import Job
from darkroom.model_runner.engine.state import State
from tests.model_runner.engine.families import leaving, residents, tiny_media

TOLERANCE = 1e-4  # of latents, whose size is about 1
SIZES = [(32, 32, 5), (48, 32, 1), (32, 48, 9)]
KINDS = {"text": {}, "image": {"image": True}, "two": {"two": True}, "image2": {"image": True, "two": True}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("wan")
    for name, options in KINDS.items():
        tiny_media.wan(folder / name, **options)
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, wan.Wan]:
    return {name: residents.load(wan, residents.spec(path, family="wan")) for name, path in folders.items()}


@pytest.fixture(scope="module")
def pipelines(folders: dict[str, Path]) -> dict[str, Any]:
    made = {name: diffusers.DiffusionPipeline.from_pretrained(path) for name, path in folders.items()}
    for pipeline in made.values():
        pipeline.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def video(make_job: Any) -> Any:
    def make(model: str, **changes: Any) -> Job:
        values = {"prompt": "a red circle moves right", "frames": 5, "frames_per_second": 8}
        if model.startswith("image"):
            values["source_image"] = tiny_media.picture()
        job: Job = make_job(str(changes), model=model, max_sequence_length=tiny_media.TOKENS, **(values | changes))
        return job

    return make


def reference(pipeline: Any, job: Job, **options: Any) -> Tensor:
    if job.source_image is not None:
        options["image"] = PIL.Image.open(io.BytesIO(job.source_image))
    with torch.inference_mode():
        frames: Tensor = pipeline(
            prompt=job.prompt,
            negative_prompt=job.negative_prompt,
            width=job.width,
            height=job.height,
            num_frames=job.frames,
            num_inference_steps=job.steps,
            guidance_scale=job.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(job.seeds[0]),
            max_sequence_length=job.max_sequence_length,
            **({"output_type": "latent"} | options),
        ).frames[0]
    return frames


@pytest.mark.parametrize(("width", "height", "frames"), SIZES)
@pytest.mark.parametrize("steps", [1, 3, 6])
@pytest.mark.parametrize(("guidance", "negative"), [(1.0, ""), (5.0, "blue square")])
@pytest.mark.parametrize("name", ["text", "image"])
def test_alone_equals_the_pipeline(
    models: Any,
    pipelines: Any,
    video: Any,
    name: str,
    guidance: float,
    negative: str,
    steps: int,
    width: int,
    height: int,
    frames: int,
) -> None:
    job = video(
        name, steps=steps, guidance_scale=guidance, negative_prompt=negative, width=width, height=height, frames=frames
    )
    (state,) = residents.develop(models[name], job)
    assert residents.distance(state.latents, reference(pipelines[name], job)) <= TOLERANCE


@pytest.mark.parametrize("name", ["text", "image", "two", "image2"])
def test_rows_of_different_steps_guidance_seeds_and_texts_equal_the_pipeline(
    models: Any, pipelines: Any, video: Any, name: str
) -> None:
    jobs = [
        video(name, steps=3, guidance_scale=2.0, seeds=(1,)),
        video(name, steps=6, guidance_scale=7.5, seeds=(2**40,), prompt="a blue square"),
        video(name, steps=4, guidance_scale=4.0, seeds=(3,), negative_prompt="noise"),
    ]
    made = residents.develop(models[name], *jobs)
    for job, state in zip(jobs, made, strict=True):
        assert residents.distance(state.latents, reference(pipelines[name], job)) <= TOLERANCE
    assert (
        min(residents.distance(one.latents, other.latents) for one in made for other in made if one is not other) > 0.1
    )


@pytest.mark.parametrize("name", ["text", "image"])
def test_decoded_frames_equal_the_pipeline(models: Any, pipelines: Any, video: Any, name: str) -> None:
    jobs = [video(name, steps=2, seeds=(seed,)) for seed in (1, 2)]
    with torch.inference_mode():
        decoded = models[name].decode(residents.develop(models[name], *jobs))
    for job, frames in zip(jobs, decoded, strict=True):
        assert frames.shape == (5, 3, 32, 32)
        assert residents.distance(frames.clamp(0, 1), reference(pipelines[name], job, output_type="pt")) <= 1e-4


def test_a_second_transformer_takes_over_below_the_boundary(models: Any, video: Any) -> None:
    """Rows on both sides share a batch; the other transformer's numbers differ."""
    model = models["two"]
    early, late = (model.prepare([video("two", steps=6, seeds=(seed,))])[0][0] for seed in (1, 2))
    with torch.inference_mode():
        while late.plan.timesteps[late.step] >= 875:
            (late,) = model.advance([late], model.denoise([late]))
        together, alone = model.denoise([late, early]), [model.denoise([state]) for state in (late, early)]
    for row, single in enumerate(alone):
        assert residents.distance(together.positive[row], single.positive[0]) <= 1e-5
        assert residents.distance(together.negative[row], single.negative[0]) <= 1e-5


@torch.inference_mode()
def test_a_saved_state_goes_on_bit_by_bit(models: Any, folders: dict[str, Path], video: Any) -> None:
    model, spec = models["image"], residents.spec(folders["image"], family="wan")
    job = video("image", steps=5, negative_prompt="noise")
    ((state,),) = model.prepare([job])
    for _ in range(2):
        (state,) = model.advance([state], model.denoise([state]))
    data = checkpoint.save([state], tiny_media.NO_USAGE, job=job, spec=spec)
    (again,) = checkpoint.load(data, job=job, spec=spec, device=torch.device("cpu")).images
    assert isinstance(again, State)
    while state.step < state.steps_total:
        (state,) = model.advance([state], model.denoise([state]))
        (again,) = model.advance([again], model.denoise([again]))
    assert torch.equal(*(model.decode([end])[0] for end in (state, again)))


@pytest.mark.parametrize(
    ("name", "changes", "field"),
    [
        ("text", {"frames": 4}, "num_frames: must be 1 plus a multiple of 4, not 4$"),
        ("text", {"width": 40}, "width: must be a multiple of 16, not 40$"),
        ("text", {"height": 40}, "height: "),
        ("text", {"mask_image": b""}, "mask_image: "),
        ("text", {"source_image": b""}, "source_image: "),
        ("image", {"source_image": None}, "source_image: "),
        ("image", {"source_image": b"no picture"}, "source_image: "),
        ("text", {"strength": 0.5}, "strength: "),
        ("text", {"sampler": "ddim"}, "sampler: "),
    ],
)
def test_what_it_cannot_make_is_refused_by_name(models: Any, video: Any, name: str, changes: Any, field: str) -> None:
    with pytest.raises(errors.BadRequest, match=f"^{field}"):
        models[name].prepare([video(name, **changes)])


@pytest.mark.parametrize("name", ["image", "two"])
def test_leaves_its_device_and_returns_with_every_bit(models: Any, video: Any, name: str) -> None:
    model = models[name]
    leaving.and_returning(model, lambda: model.decode(residents.develop(model, video(name, steps=2))))


def test_a_draft_keeps_its_cache_and_two_transformers_make_none(models: Any, pipelines: Any, video: Any) -> None:
    job = video("text", steps=6, tier="DRAFT")
    begun = residents.step(models["text"], job)
    assert (begun.tier, set(begun.cache)) == ("DRAFT", {"first", "rest", "spent", "drift"})
    (state,) = residents.develop(models["text"], job)
    assert residents.distance(state.latents, reference(pipelines["text"], job)) < 1.0
    ((both,),) = models["two"].prepare([video("two", tier="DRAFT")])
    assert both.tier == "LOSSLESS"


def test_tier_high_is_near(models: Any, video: Any) -> None:
    cpu = torch.device("cpu")
    job = video("image", steps=4)
    (state,), (high,) = (
        residents.develop(models["image"], job),
        residents.develop(models["image"], dataclasses.replace(job, tier="HIGH")),
    )
    assert high.tier == ("HIGH" if quantize.is_possible(cpu, torch.float32) else "LOSSLESS")
    assert residents.distance(state.latents, high.latents) < 0.2


def test_wan_2_2_s_5b_is_refused_clearly(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "WanPipeline", "expand_timesteps": true}')
    with pytest.raises(errors.LoadFailed, match="one time"):
        residents.load(wan, residents.spec(tmp_path, family="wan"))
    with pytest.raises(errors.LoadFailed, match="guidance"):
        residents.load(wan, residents.spec(folders["text"], family="wan", guidance="embedded"))
