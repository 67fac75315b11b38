"""FLUX with source pictures equals FluxImg2Img, FluxInpaint, FluxFill and FluxKontext, alone and in mixed batches."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import diffusers
import PIL.Image
import pytest
import torch
from torch import Tensor

from darkroom import catalog
from darkroom.model_runner.engine import checkpoint, encode, errors
from darkroom.model_runner.engine.families import flux, flux_latents
from darkroom.model_runner.engine.job import Job, ModelSpec, Usage
from darkroom.model_runner.pocket import judge
from tests.model_runner.engine.families import residents
from tests.model_runner.engine.families.residents import TOLERANCE, distance, latents

PICTURES = {
    name: residents.picture(*size) for name, size in {"wide": (44, 36), "small": (24, 16), "same": (32, 32)}.items()
}
MASK = residents.mask(30, 30)
CLASSES = {
    "text": diffusers.FluxPipeline,
    "image": diffusers.FluxImg2ImgPipeline,
    "inpaint": diffusers.FluxInpaintPipeline,
    "fill": diffusers.FluxFillPipeline,
    "edit": diffusers.FluxKontextPipeline,
}


@pytest.fixture(scope="module")
def known(specs: dict[str, ModelSpec], tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSpec]:
    """Return the specs of conftest, and those of a Fill and two Kontext models, made of parts of them."""
    folder, found = tmp_path_factory.mktemp("flux"), dict(specs)
    for name, saved in (("fill", "embedded"), ("edit", "embedded"), ("edit_true_cfg", "true_cfg")):
        parts = diffusers.FluxPipeline.from_pretrained(specs[saved].path).components
        if name == "fill":
            torch.manual_seed(4)
            parts = {part: parts[part] for part in parts if part not in ("image_encoder", "feature_extractor")}
            seen = 4 * parts["vae"].config.latent_channels * 2 + 4 * 2**2
            config = {**parts["transformer"].config, "in_channels": seen, "out_channels": 16}
            parts["transformer"] = diffusers.FluxTransformer2DModel.from_config(config)
        CLASSES[name.partition("_")[0]](**parts).save_pretrained(folder / name)
        found[name] = dataclasses.replace(specs[saved], name=name, path=folder / name)
    return found


@pytest.fixture(scope="module")
def models(known: dict[str, ModelSpec]) -> dict[str, flux.Flux]:
    return {name: residents.load(flux, spec) for name, spec in known.items()}


@pytest.fixture(scope="module")
def parts(known: dict[str, ModelSpec]) -> dict[str, Any]:
    found = {}
    for name, spec in known.items():
        kind = CLASSES.get(name.partition("_")[0], diffusers.FluxPipeline)
        found[name] = kind.from_pretrained(spec.path, local_files_only=True).components
    return found


def reference(parts: dict[str, Any], task: str, job: Job, *, output_type: str = "latent") -> Tensor:
    """Return what the pipeline of a task makes of a job of one image: latents [tokens, channels], or pixels."""
    options: dict[str, Any] = {"guidance_scale": job.guidance_scale}
    if not parts["transformer"].config.guidance_embeds:
        options = {"true_cfg_scale": job.guidance_scale, "negative_prompt": job.negative_prompt}
    if "true_cfg_scale" in job.extras:
        options |= {"true_cfg_scale": job.extras["true_cfg_scale"], "negative_prompt": job.negative_prompt}
    if job.source_image is not None:
        options["image"] = residents.image(job.source_image)
    if job.mask_image is not None:
        options["mask_image"] = residents.image(job.mask_image)
    if job.strength is not None:
        options["strength"] = job.strength
    if task == "edit":
        options |= {"_auto_resize": False, "max_area": job.width * job.height}
    pipeline = CLASSES[task](**parts)
    pipeline.set_progress_bar_config(disable=True)
    with torch.inference_mode():
        made: Tensor = pipeline(
            prompt=job.prompt,
            height=job.height,
            width=job.width,
            num_inference_steps=job.steps,
            max_sequence_length=job.max_sequence_length,
            generator=torch.Generator("cpu").manual_seed(job.seeds[0]),
            output_type=output_type,
            **options,
        ).images[0]
    return made


TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "image": ("true_cfg", {"source_image": PICTURES["wide"], "strength": 0.75}),
    "image of dev": ("embedded", {"source_image": PICTURES["small"]}),
    "inpaint": ("true_cfg", {"source_image": PICTURES["wide"], "mask_image": MASK, "strength": 0.85}),
    "inpaint of dev": ("embedded", {"source_image": PICTURES["same"], "mask_image": MASK}),
    "fill": ("fill", {"source_image": PICTURES["wide"], "mask_image": MASK}),
    "edit": ("edit", {"source_image": PICTURES["wide"]}),
    "edit with true guidance": (
        "edit",
        {"source_image": PICTURES["small"], "negative_prompt": "red", "extras": {"true_cfg_scale": 2.5}},
    ),
    "edit without a picture": ("edit", {}),
    "edit guided": ("edit_true_cfg", {"source_image": PICTURES["same"], "negative_prompt": "a circle"}),
}


def task_of(name: str, changes: dict[str, Any]) -> str:
    if "source_image" not in changes:
        return "text"
    return name.split()[0]


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize(("steps", "size"), [(2, (32, 32)), (4, (48, 32)), (6, (32, 64))])
@pytest.mark.parametrize("guidance", [1.5, 4.0])
def test_every_task_equals_its_pipeline(
    models: Any, parts: Any, make_job: Any, name: str, steps: int, size: tuple[int, int], guidance: float
) -> None:
    model, changes = TASKS[name]
    width, height = size
    job = make_job("1", model=model, steps=steps, width=width, height=height, guidance_scale=guidance, **changes)
    (found,) = latents(models[model], job)
    assert distance(found, reference(parts[model], task_of(name, changes), job)) <= TOLERANCE


def test_text_image_and_inpainting_rows_share_a_batch(models: Any, parts: Any, make_job: Any) -> None:
    tasks: dict[str, dict[str, Any]] = {
        "text": {"steps": 6, "guidance_scale": 2.0, "seeds": (1,)},
        "image": {"steps": 5, "source_image": PICTURES["wide"], "prompt": "a red circle", "seeds": (2**40,)},
        "inpaint": {"steps": 4, "source_image": PICTURES["small"], "mask_image": MASK, "negative_prompt": "green"},
    }
    jobs = {task: make_job(task, **changes) for task, changes in tasks.items()}
    for (task, job), found in zip(jobs.items(), latents(models["true_cfg"], *jobs.values()), strict=True):
        assert distance(found, reference(parts["true_cfg"], task, job)) <= TOLERANCE


@pytest.mark.parametrize("task", ["fill", "edit"])
def test_rows_of_different_pictures_of_one_size_share_a_batch(
    models: Any, parts: Any, make_job: Any, task: str
) -> None:
    mask = {"mask_image": MASK} if task == "fill" else {}
    flipped = residents.image(PICTURES["same"]).transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
    written = io.BytesIO()
    flipped.save(written, format="PNG")
    jobs = [
        make_job("1", model=task, steps=3, source_image=PICTURES["same"], seeds=(1,), **mask),
        make_job("2", model=task, steps=5, source_image=written.getvalue(), guidance_scale=6.0, prompt="red", **mask),
    ]
    for job, found in zip(jobs, latents(models[task], *jobs), strict=True):
        assert distance(found, reference(parts[task], task, job)) <= TOLERANCE


def test_edits_of_pictures_of_different_sizes_share_no_batch(models: Any, make_job: Any) -> None:
    jobs = [make_job(name, model="edit", source_image=PICTURES[name]) for name in ("small", "same")]
    (one,), (other,) = models["edit"].prepare(jobs)
    assert one.batch_key != other.batch_key
    assert one.batch_key.shape == other.batch_key.shape


def test_a_large_picture_is_edited_smaller(models: Any, make_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flux_latents, "EDITED_PIXELS_MAX", 20 * 20)
    ((state,),) = models["edit"].prepare([make_job("1", model="edit", source_image=residents.picture(80, 20))])
    assert state.batch_key.task == "edit 40x8"
    assert len(state.conditioning["source"]) == 10 * 2


@pytest.mark.parametrize(
    "size", [(44, 36), (16384, 4096), (4096, 16384), (16384, 64), (16384, 15), (3, 3), (1030, 1030)]
)
def test_a_picture_in_the_size_that_kontext_wants_is_left_in_it(size: tuple[int, int]) -> None:
    wanted = flux_latents.edited_size(size, patch=16)
    assert all(length % 16 == 0 for length in wanted)
    assert flux_latents.edited_size(wanted, patch=16) == wanted


def test_each_seed_draws_its_own_start(models: Any, parts: Any, make_job: Any) -> None:
    changes = {"source_image": PICTURES["wide"], "mask_image": MASK}
    for seed, found in zip((7, 8), latents(models["true_cfg"], make_job("1", seeds=(7, 8), **changes)), strict=True):
        job = make_job("1", seeds=(seed,), **changes)
        assert distance(found, reference(parts["true_cfg"], "inpaint", job)) <= TOLERANCE


def test_what_the_mask_keeps_is_the_picture(models: Any, parts: Any, make_job: Any) -> None:
    job = make_job("1", source_image=PICTURES["same"], mask_image=MASK, strength=1.0)
    with torch.inference_mode():
        (picture,) = models["true_cfg"].decode(residents.run(models["true_cfg"], models["true_cfg"].prepare([job])[0]))
    expected = reference(parts["true_cfg"], "inpaint", job, output_type="pt")
    assert distance(picture.clamp(0, 1), expected) <= TOLERANCE


@pytest.mark.parametrize(
    ("model", "changes", "text"),
    [
        ("true_cfg", {"mask_image": MASK}, "source_image: mask_image and strength need one"),
        ("true_cfg", {"strength": 0.5}, "source_image: mask_image and strength need one"),
        ("true_cfg", {"source_image": PICTURES["same"], "strength": 0.0}, "strength: 0.0 leaves no step"),
        ("true_cfg", {"source_image": b"no picture"}, "source_image: not a readable picture"),
        ("true_cfg", {"source_image": PICTURES["same"], "mask_image": b""}, "mask_image: not a readable picture"),
        ("fill", {"source_image": PICTURES["same"]}, "mask_image: model fill only fills"),
        ("fill", {}, "source_image: model fill only fills"),
        ("edit", {"source_image": PICTURES["same"], "mask_image": MASK}, "mask_image: model edit"),
        ("edit", {"source_image": PICTURES["same"], "strength": 0.5}, "strength: model edit"),
        ("edit", {"negative_prompt": "red"}, "negative_prompt: model edit takes none unless true_cfg_scale"),
    ],
)
def test_refuses_what_the_model_cannot_do(models: Any, make_job: Any, model: str, changes: Any, text: str) -> None:
    with pytest.raises(errors.BadRequest, match=text):
        models[model].prepare([make_job("1", model=model, **changes)])


def test_pocket_image_paints_a_part_anew_and_keeps_the_other(make_job: Any) -> None:
    folder = Path(catalog.__file__).parent / "models" / "pocket-image"
    model = residents.load(flux, dataclasses.replace(residents.spec(folder, family="flux"), name="pocket-image"))
    shape = {"model": "pocket-image", "width": 64, "height": 64, "steps": 28, "max_sequence_length": 20, "seeds": (3,)}
    before, after = (f"a {thing} left of a blue square on a white background" for thing in ("red circle", "green star"))
    (first,) = painted(model, make_job("1", prompt=before, **shape))
    source = {"source_image": encode.png(encode.rounded("image", first).values[0]), "mask_image": MASK, "strength": 1.0}
    (second,) = painted(model, make_job("2", prompt=after, **shape, **source))
    for prompt, picture in ((before, first), (after, second)):
        assert judge.judge(prompt, residents.image(encode.png(encode.rounded("image", picture).values[0]))).ok
    assert distance(first[:, :, 34:], second[:, :, 34:]) < 0.1


def test_one_checkpoint_of_every_task_goes_on_to_the_same_latents(
    models: Any, known: dict[str, ModelSpec], make_job: Any
) -> None:
    usage = Usage(adapters_us=0, prepare_us=0, denoise_us=0, decode_us=0, steps=2, images=0, pixels=0)
    for name, (model, changes) in TASKS.items():
        job = make_job(name, model=model, steps=5, **changes)
        with torch.inference_mode():
            (state,) = models[model].prepare([job])[0]
            (state,) = models[model].advance([state], models[model].denoise([state]))
            data = checkpoint.save([state], usage, job=job, spec=known[model])
            back = checkpoint.load(data, job=job, spec=known[model], device=torch.device("cpu")).images[0]
            (expected,), (found,) = (residents.run(models[model], [one]) for one in (state, back))
        assert torch.equal(found.latents, expected.latents)


@torch.inference_mode()
def painted(model: flux.Flux, job: Job) -> list[Tensor]:
    return model.decode(residents.run(model, model.prepare([job])[0]))
