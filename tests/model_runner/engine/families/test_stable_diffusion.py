"""The stable_diffusion family paints what diffusers' three pipelines paint, alone and in mixed batches."""

import dataclasses
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from darkroom.model_runner.engine import errors
from darkroom.model_runner.engine.families import stable_diffusion
from darkroom.model_runner.engine.job import Job, ModelSpec
from tests.model_runner.engine.families import leaving, residents, unet_checks, unets
from tests.model_runner.engine.families.residents import TOLERANCE, distance, latents

PIPELINES = {
    "text": diffusers.StableDiffusionPipeline,
    "image": diffusers.StableDiffusionImg2ImgPipeline,
    "inpaint": diffusers.StableDiffusionInpaintPipeline,
}
KINDS: dict[str, dict[str, Any]] = {
    "epsilon": {},
    "velocity": {"scheduler": {"prediction_type": "v_prediction"}},  # as 2.1
    "inpainting": {"unet": {"in_channels": 9}},
    "consistency": {"unet": {"time_cond_proj_dim": 8}, "guidance": "embedded"},
    "distilled": {"guidance": "none"},
}
TASKS: dict[str, Any] = {
    "text": {},
    "image": unet_checks.IMAGE,
    "inpaint": unet_checks.INPAINT,
    "inpaint_all": {name: unet_checks.INPAINT_ALL[name] for name in ("source_image", "mask_image")},
}


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSpec]:
    folder = tmp_path_factory.mktemp("stable_diffusion")
    return {name: _save(folder / name, **changes) for name, changes in KINDS.items()}


@pytest.fixture(scope="module")
def models(specs: dict[str, ModelSpec]) -> dict[str, stable_diffusion.StableDiffusion]:
    return {name: residents.load(stable_diffusion, spec) for name, spec in specs.items()}


@pytest.fixture(scope="module")
def parts(specs: dict[str, ModelSpec]) -> dict[str, dict[str, Any]]:
    """Return what each directory holds, as diffusers loads it."""
    return {name: _components(spec.path) for name, spec in specs.items()}


@pytest.fixture
def make_job(make_job: Any) -> Any:
    def make(key: str, **changes: Any) -> Job:
        job: Job = make_job(key, **({"model": "epsilon", "max_sequence_length": unets.TOKENS} | changes))
        return job

    return make


@pytest.fixture
def subject(models: Any, parts: Any, make_job: Any) -> unet_checks.Subject:
    return unet_checks.Subject(models["epsilon"], parts["epsilon"], reference, make_job)


def reference(components: dict[str, Any], job: Job, **options: Any) -> Tensor:
    return unets.reference(PIPELINES, components | {"requires_safety_checker": False}, job, **options)


@pytest.mark.parametrize("size", [(32, 32), (64, 32), (40, 56)])
@pytest.mark.parametrize("steps", [1, 3, 6])
@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_alone_equals_the_pipeline(
    models: Any, parts: Any, make_job: Any, steps: int, size: tuple[int, int], scale: float
) -> None:
    job = make_job("1", steps=steps, width=size[0], height=size[1], guidance_scale=scale, negative_prompt="green")
    (found,) = latents(models["epsilon"], job)
    assert found.shape == (4, size[1] // 8, size[0] // 8)
    assert distance(found, reference(parts["epsilon"], job)) <= TOLERANCE


@pytest.mark.parametrize("kind", ["epsilon", "velocity"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("sampler", unets.SCHEDULERS)
def test_every_sampler_and_task_equals_the_pipeline(
    models: Any, parts: Any, make_job: Any, kind: str, task: str, sampler: str
) -> None:
    job = make_job("1", model=kind, sampler=sampler, steps=5, **TASKS[task])
    (found,) = latents(models[kind], job)
    assert distance(found, reference(parts[kind], job)) <= TOLERANCE


@pytest.mark.parametrize("strength", [0.4, 1.0])
@pytest.mark.parametrize("sampler", ["", "euler_ancestral"])
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_a_unet_that_sees_the_mask_equals_the_pipeline(
    models: Any, parts: Any, make_job: Any, strength: float, sampler: str, scale: float
) -> None:
    changes = TASKS["inpaint"] | {"strength": strength, "sampler": sampler, "guidance_scale": scale}
    job = make_job("1", model="inpainting", steps=5, **changes)
    (found,) = latents(models["inpainting"], job)
    assert distance(found, reference(parts["inpainting"], job)) <= TOLERANCE


@pytest.mark.parametrize(("kind", "sampler"), [("consistency", "lcm"), ("distilled", "euler")])
def test_models_without_a_second_prediction_equal_the_pipeline(
    models: Any, parts: Any, make_job: Any, kind: str, sampler: str
) -> None:
    scales = (1.0, 8.0) if kind == "consistency" else (1.0, 1.0)
    jobs = [
        make_job(str(index), model=kind, sampler=sampler, guidance_scale=scale, seeds=(index,))
        for index, scale in enumerate(scales)
    ]
    for job, found in zip(jobs, latents(models[kind], *jobs), strict=True):
        assert distance(found, reference(parts[kind], job)) <= TOLERANCE


def test_one_batch_mixes_tasks_samplers_steps_guidance_seeds_and_prompts(subject: unet_checks.Subject) -> None:
    unet_checks.mixes_everything(subject)


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=unets.mixtures())
def test_rows_that_come_and_go_at_any_step_equal_the_pipeline(subject: unet_checks.Subject, rows: Any) -> None:
    unet_checks.come_and_go(subject, rows)


def test_adapters_of_a_mixed_batch_equal_the_pipeline_with_merged_weights(subject: Any, tmp_path: Path) -> None:
    unet_checks.adapters_equal_merged_weights(subject, tmp_path)


def test_rows_that_see_masks_share_a_batch(models: Any, parts: Any, make_job: Any) -> None:
    jobs = [
        make_job("1", model="inpainting", seeds=(1,), steps=3, **TASKS["inpaint"]),
        make_job("2", model="inpainting", seeds=(2,), steps=5, prompt="blue", **TASKS["inpaint_all"]),
    ]
    for job, found in zip(jobs, latents(models["inpainting"], *jobs), strict=True):
        assert distance(found, reference(parts["inpainting"], job)) <= TOLERANCE


def test_each_seed_of_a_job_is_the_picture_of_that_seed_alone(subject: unet_checks.Subject) -> None:
    unet_checks.seeds_are_alone(subject)


def test_decodes_a_batch_into_the_pictures_of_the_pipeline(subject: unet_checks.Subject) -> None:
    unet_checks.decodes_a_batch(subject)


def test_texts_of_all_jobs_are_encoded_in_one_call_and_only_once(specs: Any, make_job: Any) -> None:
    model, calls = residents.load(stable_diffusion, specs["epsilon"]), []
    model._pipeline.text_encoder.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    jobs = [make_job("1"), make_job("2", prompt="blue", negative_prompt="red"), make_job("3", prompt="blue")]
    with torch.inference_mode():
        model.prepare(jobs)
        model.prepare([make_job("4", prompt="red")])
    assert calls == [4]  # "a red circle...", "", "blue", "red"


def test_the_engine_paints_by_the_family_name(subject: unet_checks.Subject, specs: Any, record: Any) -> None:
    unet_checks.paints_through_the_engine(subject, specs["epsilon"], record)


def test_other_tiers_are_told_and_batched_apart(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    unet_checks.tiers_are_told(subject, monkeypatch)


def test_guidance_of_one_makes_no_second_prediction(subject: unet_checks.Subject) -> None:
    unet_checks.guidance_of_one_is_one_prediction(subject)


def test_a_step_leaves_the_states_it_was_given_as_they_were(subject: unet_checks.Subject) -> None:
    unet_checks.a_step_changes_nothing_in_place(subject)


@pytest.mark.parametrize(
    ("kind", "changes", "text"),
    [
        ("epsilon", {"width": 36}, "^width: .*multiple of 8"),
        ("epsilon", {"height": 30}, "^height: .*multiple of 8"),
        ("epsilon", {"sampler": "flow_euler"}, "^sampler: "),
        ("epsilon", {"sampler": "nobody"}, "^sampler: "),
        ("epsilon", {"strength": 0.5}, "^source_image: "),
        ("epsilon", {"mask_image": b""}, "^source_image: "),
        ("epsilon", {"source_image": b"no picture"}, "^source_image: "),
        ("epsilon", {"source_image": residents.picture(8, 8), "mask_image": b"none"}, "^mask_image: "),
        ("epsilon", {"source_image": residents.picture(8, 8), "strength": 0.1}, "^strength: "),
        ("epsilon", {"source_image": residents.picture(8, 8), "strength": 1.5}, "^strength: "),
        ("distilled", {"negative_prompt": "red"}, "^negative_prompt: "),
        ("inpainting", {}, "^mask_image: "),
        ("inpainting", {"source_image": residents.picture(8, 8)}, "^mask_image: "),
    ],
)
def test_refuses_what_the_model_cannot_do(models: Any, make_job: Any, kind: str, changes: Any, text: str) -> None:
    with pytest.raises(errors.BadRequest, match=text):
        models[kind].prepare([make_job("1", model=kind, **changes)])


@pytest.mark.parametrize(("kind", "claimed"), [("epsilon", "embedded"), ("consistency", "true_cfg")])
def test_refuses_a_directory_of_another_guidance(specs: Any, kind: str, claimed: Any) -> None:
    with pytest.raises(errors.LoadFailed, match="guidance"):
        residents.load(stable_diffusion, dataclasses.replace(specs[kind], guidance=claimed))


def test_refuses_a_unet_of_another_task(tmp_path: Path) -> None:
    with pytest.raises(errors.LoadFailed, match="8 input channels"):
        residents.load(stable_diffusion, _save(tmp_path / "pix2pix", unet={"in_channels": 8}))


def test_leaves_its_device_and_returns_with_every_bit(models: Any, make_job: Any) -> None:
    job = make_job("1", steps=3, **TASKS["inpaint"])
    model = models["epsilon"]
    leaving.and_returning(model, lambda: model.decode(residents.develop(model, job)))


def test_computes_in_the_dtype_it_is_told(specs: Any, models: Any, make_job: Any) -> None:
    job = make_job("1", **TASKS["inpaint"])
    (found,) = latents(residents.load(stable_diffusion, specs["epsilon"], dtype=torch.bfloat16), job)
    assert found.dtype == torch.float32
    assert 0 < distance(found, latents(models["epsilon"], job)[0]) < 0.5


def _save(path: Path, *, unet: Any = None, scheduler: Any = None, guidance: str = "true_cfg") -> ModelSpec:
    torch.manual_seed(1)
    tokenizer = unets.tokenizer()
    diffusers.StableDiffusionPipeline(
        tokenizer=tokenizer,
        text_encoder=unets.text_encoder(transformers.CLIPTextModel, tokenizer),
        unet=unets.unet(**(unet or {})),
        vae=unets.vae(),
        scheduler=diffusers.DDIMScheduler(**unets.BETAS, clip_sample=False, **(scheduler or {})),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(path)
    return residents.spec(path, family="stable_diffusion", guidance=guidance)


def _components(path: Path) -> dict[str, Any]:
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(path, local_files_only=True)
    return dict(pipeline.components)
