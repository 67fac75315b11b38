"""The flux family paints what diffusers.FluxPipeline paints, alone and in mixed batches."""

import dataclasses
import logging.handlers
import queue
from pathlib import Path
from typing import Any

import diffusers
import pytest
import safetensors.torch
import torch
from torch import Tensor

from darkroom import catalog
from darkroom.model_runner.engine import errors, revision
from darkroom.model_runner.engine.families import flux
from darkroom.model_runner.engine.job import AdapterUse, Job, ModelSpec
from tests.model_runner.engine.families import leaving, residents
from tests.model_runner.engine.families.residents import distance, run

TOLERANCE = 2e-3  # of pixels in [0, 1]
POCKET_IMAGE = Path(catalog.__file__).parent / "models" / "pocket-image"


@pytest.fixture(scope="module")
def models(specs: dict[str, ModelSpec]) -> dict[str, flux.Flux]:
    return {name: load(spec) for name, spec in specs.items()}


@pytest.fixture(scope="module")
def pipelines(specs: dict[str, ModelSpec]) -> dict[str, diffusers.FluxPipeline]:
    made = {name: diffusers.FluxPipeline.from_pretrained(spec.path) for name, spec in specs.items()}
    for pipeline in made.values():
        pipeline.set_progress_bar_config(disable=True)
    return made


def load(spec: ModelSpec, **options: Any) -> flux.Flux:
    loaded: flux.Flux = residents.load(flux, spec, **options)
    return loaded


def reference(pipeline: diffusers.FluxPipeline, job: Job, *, output_type: str = "pt") -> Tensor:
    """Return FluxPipeline's pictures of a job, [images, 3, height, width], or its latents."""
    guidance: dict[str, Any] = {"guidance_scale": job.guidance_scale}
    if not pipeline.transformer.config.guidance_embeds:
        guidance = {"true_cfg_scale": job.guidance_scale, "negative_prompt": job.negative_prompt}
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in job.seeds]
    with torch.inference_mode():
        pictures: Tensor = pipeline(
            job.prompt,
            height=job.height,
            width=job.width,
            num_inference_steps=job.steps,
            num_images_per_prompt=len(job.seeds),
            max_sequence_length=job.max_sequence_length,
            generator=generators,
            output_type=output_type,
            **guidance,
        ).images
    return pictures


@torch.inference_mode()
def paint(model: flux.Flux, *jobs: Job) -> list[Tensor]:
    """Return the pictures of all images of jobs, made in one batch."""
    states = run(model, [state for states in model.prepare(jobs) for state in states])
    return [model.decode([state])[0].clamp(0, 1) for state in states]


@pytest.mark.parametrize("size", [(32, 32), (48, 32), (32, 64)])
@pytest.mark.parametrize("steps", [1, 4, 9])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("true_cfg", {"guidance_scale": 3.0}),
        ("true_cfg", {"guidance_scale": 1.0}),
        ("true_cfg", {"guidance_scale": 5.5, "negative_prompt": "green triangle"}),
        ("embedded", {"guidance_scale": 3.5}),
        ("none", {"guidance_scale": 1.0}),
    ],
)
def test_alone_equals_the_pipeline(
    models: Any, pipelines: Any, make_job: Any, name: str, changes: Any, steps: int, size: tuple[int, int]
) -> None:
    job = make_job("1", model=name, steps=steps, width=size[0], height=size[1], **changes)
    (latents,) = residents.latents(models[name], job)
    assert distance(latents, reference(pipelines[name], job, output_type="latent")[0]) <= residents.TOLERANCE


def test_four_rows_of_different_steps_seeds_prompts_and_guidance_equal_the_pipeline(
    models: Any, pipelines: Any, make_job: Any
) -> None:
    jobs = [
        make_job("1", steps=3, seeds=(1,), guidance_scale=2.0),
        make_job("2", steps=7, seeds=(2**40,), guidance_scale=7.5, prompt="a blue square"),
        make_job("3", steps=5, seeds=(3,), guidance_scale=1.5, negative_prompt="a red circle"),
        make_job("4", steps=4, seeds=(4,), guidance_scale=4.0, prompt="", negative_prompt="white background"),
    ]
    for job, latents in zip(jobs, residents.latents(models["true_cfg"], *jobs), strict=True):
        expected = reference(pipelines["true_cfg"], job, output_type="latent")[0]
        assert distance(latents, expected) <= residents.TOLERANCE
    pictures = paint(models["true_cfg"], *jobs)
    for job, picture in zip(jobs, pictures, strict=True):
        assert picture.shape == (3, job.height, job.width)
        assert distance(picture, reference(pipelines["true_cfg"], job)[0]) <= TOLERANCE
    assert min(distance(one, other) for one in pictures for other in pictures if one is not other) > 10 * TOLERANCE


def test_rows_of_different_embedded_guidance_share_a_batch(models: Any, pipelines: Any, make_job: Any) -> None:
    jobs = [
        make_job(str(scale), model="embedded", guidance_scale=scale, steps=2 + index)
        for index, scale in enumerate((1.0, 3.5, 10.0))
    ]
    for job, picture in zip(jobs, paint(models["embedded"], *jobs), strict=True):
        assert distance(picture, reference(pipelines["embedded"], job)[0]) <= TOLERANCE


def test_each_seed_is_its_own_image(models: Any, pipelines: Any, make_job: Any) -> None:
    together = make_job("1", seeds=(7, 8, 9))
    pictures = paint(models["true_cfg"], together)
    for picture, expected in zip(pictures, reference(pipelines["true_cfg"], together), strict=True):
        assert distance(picture, expected) <= TOLERANCE
    (alone,) = paint(models["true_cfg"], dataclasses.replace(together, seeds=(8,)))
    assert distance(alone, pictures[1]) <= TOLERANCE


@torch.inference_mode()
def test_a_row_may_join_and_another_leave_between_steps(models: Any, pipelines: Any, make_job: Any) -> None:
    model = models["true_cfg"]
    first, second = make_job("1", steps=6), make_job("2", steps=5, seeds=(9,), guidance_scale=2.0)
    ((one,),) = model.prepare([first])
    for _ in range(3):
        (one,) = model.advance([one], model.denoise([one]))
    one, other = run(model, [one, *model.prepare([second])[0]])
    for job, state in ((first, one), (second, other)):
        picture = model.decode([state])[0].clamp(0, 1)
        assert distance(picture, reference(pipelines["true_cfg"], job)[0]) <= TOLERANCE


@torch.inference_mode()
def test_a_state_survives_serialisation_as_tensors_and_numbers(models: Any, pipelines: Any, make_job: Any) -> None:
    model, job = models["true_cfg"], make_job("1", steps=5)
    ((state,),) = model.prepare([job])
    for _ in range(2):
        (state,) = model.advance([state], model.denoise([state]))
    saved = safetensors.torch.save({**state.conditioning, "latents": state.latents.contiguous()})
    tensors = safetensors.torch.load(saved)
    (back,) = run(model, [dataclasses.replace(state, latents=tensors.pop("latents"), conditioning=tensors)])
    assert distance(model.decode([back])[0].clamp(0, 1), reference(pipelines["true_cfg"], job)[0]) <= TOLERANCE


@torch.inference_mode()
def test_a_step_leaves_the_states_it_was_given_as_they_were(models: Any, make_job: Any) -> None:
    model = models["true_cfg"]
    ((state,),) = model.prepare([make_job("1")])
    before = state.latents.clone()
    (after,) = model.advance([state], model.denoise([state]))
    assert (state.step, after.step) == (0, 1)
    assert torch.equal(state.latents, before)
    assert not torch.equal(after.latents, before)


@torch.inference_mode()
def test_guidance_of_one_makes_no_second_prediction(models: Any, make_job: Any) -> None:
    model = models["true_cfg"]
    (plain,), (guided,) = model.prepare([make_job("1", guidance_scale=1.0), make_job("2")])
    assert plain.batch_key != guided.batch_key
    assert model.denoise([plain]).negative is None
    assert model.denoise([guided]).negative is not None


def test_adapters_of_a_mixed_batch_equal_the_pipeline_with_merged_weights(
    specs: Any, models: Any, make_job: Any, tmp_path: Path
) -> None:
    transformer = models["true_cfg"]._pipeline.transformer
    use, scales = residents.adapter(transformer, tmp_path / "adapter.safetensors"), (0.0, 1.0, -0.5)
    jobs = [
        make_job(str(scale), seeds=(index,), adapters=(dataclasses.replace(use, scale=scale),) if scale else ())
        for index, scale in enumerate(scales)
    ]
    pictures = paint(models["true_cfg"], *jobs)
    for job, scale, picture in zip(jobs, scales, pictures, strict=True):
        expected = reference(_merged(specs["true_cfg"], dataclasses.replace(use, scale=scale)), job)[0]
        assert distance(picture, expected) <= TOLERANCE
    (plain,) = paint(models["true_cfg"], dataclasses.replace(jobs[1], adapters=()))
    assert distance(plain, pictures[1]) > 10 * TOLERANCE


def test_leaves_its_device_and_returns_with_every_bit(specs: Any, make_job: Any, tmp_path: Path) -> None:
    model = load(specs["true_cfg"])
    use = residents.adapter(model._pipeline.transformer, tmp_path / "adapter.safetensors")
    plain, lora = make_job("1", steps=3), make_job("2", steps=3, adapters=(use,), width=64, height=64)
    merged = []

    def paints() -> list[Tensor]:
        pictures = paint(model, plain) + paint(model, lora)
        merged.append(model.bank.merged_bytes)
        return pictures

    leaving.and_returning(model, paints)
    assert merged[0] == merged[1] > 0


def _merged(spec: ModelSpec, use: AdapterUse) -> diffusers.FluxPipeline:
    pipeline = diffusers.FluxPipeline.from_pretrained(spec.path, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.transformer = residents.merged(pipeline.transformer, use)
    return pipeline


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("true_cfg", {"width": 34}, "width: must be a multiple of 4, not 34"),
        ("true_cfg", {"height": 33}, "height: must be a multiple of 4, not 33"),
        ("embedded", {"negative_prompt": "red"}, "negative_prompt: model embedded takes none"),
        ("none", {"negative_prompt": "red"}, "negative_prompt: model none takes none"),
    ],
)
def test_refuses_what_the_model_cannot_do(models: Any, make_job: Any, name: str, changes: Any, text: str) -> None:
    with pytest.raises(errors.BadRequest, match=text):
        models[name].prepare([make_job("1", model=name, **changes)])


def test_a_prompt_too_long_is_cut_as_the_pipeline_does_and_not_logged(
    models: Any, pipelines: Any, make_job: Any
) -> None:
    job = make_job("1", prompt="a red circle left of a blue square " * 9)
    logged: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handler = logging.handlers.QueueHandler(logged)
    diffusers.utils.logging.add_handler(handler)
    (picture,) = paint(models["true_cfg"], job)
    diffusers.utils.logging.remove_handler(handler)
    assert logged.empty()
    assert distance(picture, reference(pipelines["true_cfg"], job)[0]) <= TOLERANCE


@pytest.mark.parametrize(("name", "claimed"), [("true_cfg", "embedded"), ("embedded", "none")])
def test_refuses_a_directory_of_another_guidance(specs: Any, name: str, claimed: Any) -> None:
    with pytest.raises(errors.LoadFailed, match="guidance"):
        load(dataclasses.replace(specs[name], guidance=claimed))


def test_bfloat16_weights_compute_in_float32(specs: Any, make_job: Any, tmp_path: Path) -> None:
    stored = diffusers.FluxPipeline.from_pretrained(specs["true_cfg"].path, dtype=torch.bfloat16)
    stored.save_pretrained(tmp_path)
    halved = dataclasses.replace(specs["true_cfg"], path=tmp_path)
    pipeline = diffusers.FluxPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    model, job = load(halved), make_job("1")
    assert {parameter.dtype for parameter in model._pipeline.transformer.parameters()} == {torch.float32}
    assert distance(paint(model, job)[0], reference(pipeline, job)[0]) <= TOLERANCE


def test_computes_in_the_dtype_it_is_told(specs: Any, make_job: Any, models: Any) -> None:
    job = make_job("1")
    (picture,) = paint(load(specs["true_cfg"], dtype=torch.bfloat16), job)
    (precise,) = paint(models["true_cfg"], job)
    assert picture.dtype == torch.float32
    assert 0 < distance(picture, precise) < 0.1


@pytest.mark.skipif(not POCKET_IMAGE.exists(), reason="pocket-image is not trained yet")
def test_pocket_image_alone_and_in_a_mixed_batch_of_four(make_job: Any) -> None:
    spec = ModelSpec(
        name="pocket-image",
        family="flux",
        path=POCKET_IMAGE,
        revision=revision.digest(POCKET_IMAGE),
        guidance="true_cfg",
        memory_bytes=1,
    )
    pipeline = diffusers.FluxPipeline.from_pretrained(POCKET_IMAGE, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    shape = {"model": "pocket-image", "width": 64, "height": 64, "max_sequence_length": 20}
    jobs = [
        make_job("1", steps=28, guidance_scale=3.0, seeds=(1,), **shape),
        make_job("2", steps=10, guidance_scale=6.0, seeds=(2,), prompt="a green triangle", **shape),
        make_job("3", steps=5, guidance_scale=1.5, seeds=(3,), negative_prompt="a red circle", **shape),
        make_job("4", steps=20, guidance_scale=4.0, seeds=(4,), prompt="a blue square on a white background", **shape),
    ]
    model = load(spec)
    together = paint(model, *jobs)
    for job, picture in zip(jobs, together, strict=True):
        expected = reference(pipeline, job)[0]
        assert distance(picture, expected) <= TOLERANCE
        assert distance(paint(model, job)[0], expected) <= TOLERANCE
