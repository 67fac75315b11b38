"""What both UNet families do with pictures and masks, without a UNet."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch

from darkroom.model_runner.engine import errors, samplers
from darkroom.model_runner.engine.families import (
    flux_latents,
    qwen_image,
    sdxl,
    stable_diffusion,
    unet_latents,
    z_image,
)
from darkroom.model_runner.engine.state import BatchKey, State
from darkroom.scheduler import sources
from tests.model_runner.engine.families import residents, unets

PICTURE = {"source_image": residents.picture(32, 32)}
MASKED = PICTURE | {"mask_image": residents.mask(32, 32)}
PLAN = samplers.plan("euler", 4, config=dict(diffusers.EulerDiscreteScheduler(**unets.BETAS).config))


def make_latents(channels: int = 4) -> unet_latents.Latents:
    torch.manual_seed(1)
    unet = SimpleNamespace(config=SimpleNamespace(in_channels=channels), device=torch.device("cpu"))
    pipeline = SimpleNamespace(vae=unets.vae(), vae_scale_factor=8, unet=unet)
    return unet_latents.Latents(pipeline, unet_latents.Strengths(image=0.5, inpaint=1.0))


def make_state(job: Any, start: unet_latents.Start, step: int = 0) -> State:
    return State(
        batch_key=BatchKey(job.model, "text", (job.width, job.height), 12, False),
        seed=7,
        step=step,
        plan=PLAN,
        guidance=1.0,
        latents=start.latents,
        conditioning=start.conditioning,
        adapters=(),
    )


@torch.inference_mode()
def begin(latents: unet_latents.Latents, job: Any) -> unet_latents.Start:
    return latents.start(job, latents.source(job), PLAN, torch.Generator("cpu").manual_seed(7))


def test_a_picture_enters_where_its_strength_says(make_job: Any) -> None:
    latents = make_latents()
    assert latents.first_step(make_job("1", steps=8)) == 0
    assert latents.first_step(make_job("1", steps=8, **PICTURE)) == 4
    assert latents.first_step(make_job("1", steps=8, **MASKED)) == 0
    assert latents.first_step(make_job("1", steps=8, strength=0.25, **PICTURE)) == 6


@pytest.mark.parametrize(
    ("channels", "changes", "field"),
    [
        (4, {"width": 36}, "width"),
        (4, {"height": 36}, "height"),
        (4, {"strength": 0.5}, "source_image"),
        (4, {"strength": 0.1, **PICTURE}, "strength"),
        (9, PICTURE, "mask_image"),
    ],
)
def test_refusals_name_the_field(make_job: Any, channels: int, changes: Any, field: str) -> None:
    with pytest.raises(errors.BadRequest, match=f"^{field}: "):
        make_latents(channels).check(make_job("1", **changes))


def test_admission_counts_on_the_same_strengths() -> None:
    assert {"sdxl": sdxl.STRENGTHS, "stable_diffusion": stable_diffusion.STRENGTHS} == sources.STRENGTHS
    flows = {"flux": flux_latents.STRENGTHS["image"], "z_image": z_image.STRENGTH, "qwen_image": qwen_image.STRENGTH}
    assert flows == sources.FLOW_STRENGTHS
    assert flux_latents.STRENGTHS["inpaint"] == flows["flux"]


def test_pure_noise_is_what_the_seed_draws(make_job: Any) -> None:
    start = begin(make_latents(), make_job("1"))
    drawn = torch.randn(4, 4, 4, generator=torch.Generator("cpu").manual_seed(7))
    assert torch.equal(start.latents, drawn * PLAN.noise_scale)
    assert start.conditioning == {}


def test_a_picture_is_noised_as_its_first_step_expects(make_job: Any) -> None:
    start = begin(make_latents(), make_job("1", strength=0.5, **MASKED))
    clean_part, noise_part = PLAN.noising[0].tolist()
    expected = clean_part * start.conditioning["clean"] + noise_part * start.conditioning["noise"]
    assert torch.equal(start.latents, expected)


@torch.inference_mode()
def test_a_unet_of_nine_channels_is_shown_the_mask_and_the_masked_picture(make_job: Any) -> None:
    latents, job = make_latents(channels=9), make_job("1", **MASKED)
    state = make_state(job, begin(latents, job), step=1)
    [shown] = latents.inputs([state])
    assert shown.shape == (9, 4, 4)
    assert torch.equal(shown[:4], state.latents * torch.tensor(PLAN.input_scales[1]))
    assert torch.equal(shown[4:5], state.conditioning["mask"])
    assert torch.equal(shown[5:], state.conditioning["masked"])
    assert make_latents().inputs([state]).shape == (1, 4, 4, 4)


def test_inpainting_gets_back_what_it_keeps(make_job: Any) -> None:
    job = make_job("1", **MASKED)
    state = make_state(job, begin(make_latents(), job), step=2)
    painted = dataclasses.replace(state, latents=torch.full((4, 4, 4), 9.0))
    kept = state.conditioning["mask"].expand(4, 4, 4) == 0
    found = unet_latents.restored(painted).latents
    clean, noise = state.conditioning["clean"], state.conditioning["noise"]
    assert torch.equal(found[kept], (clean + PLAN.noising[2, 1].item() * noise)[kept])
    assert (found[~kept] == 9).all()
    ended = unet_latents.restored(dataclasses.replace(painted, step=PLAN.steps)).latents
    assert torch.equal(ended[kept], clean[kept])


@torch.inference_mode()
def test_decodes_into_pictures(make_job: Any) -> None:
    latents, job = make_latents(), make_job("1")
    state = make_state(job, begin(latents, job), step=PLAN.steps)
    one, two = latents.decode([state, state])
    assert one.shape == (3, 32, 32)
    assert torch.allclose(one, two, atol=1e-5)
