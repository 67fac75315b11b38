"""The Qwen-Image family paints what QwenImagePipeline and QwenImageImg2ImgPipeline paint, alone and in mixed batches."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import tokenizers
import torch
import transformers
from torch import Tensor

from darkroom.model_runner.engine import errors
from darkroom.model_runner.engine.families import qwen_image
from darkroom.model_runner.engine.job import Job, ModelSpec
from tests.model_runner.engine.families import leaving, residents
from tests.model_runner.engine.families.residents import TOLERANCE, distance, latents

PICTURE = residents.picture(40, 36)
TOKENS = 64
LONG = "a red circle left of a blue square"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> diffusers.QwenImagePipeline:
    folder = tmp_path_factory.mktemp("qwen_image")
    save(folder)
    loaded = diffusers.QwenImagePipeline.from_pretrained(folder, local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def spec(pipeline: diffusers.QwenImagePipeline) -> ModelSpec:
    return residents.spec(Path(pipeline.name_or_path), family="qwen_image")


@pytest.fixture(scope="module")
def model(spec: ModelSpec) -> qwen_image.QwenImage:
    loaded: qwen_image.QwenImage = residents.load(qwen_image, spec)
    return loaded


@pytest.fixture
def job(make_job: Callable[..., Job], spec: ModelSpec) -> Callable[..., Job]:
    def make(key: str = "1", **changes: Any) -> Job:
        return make_job(key, **({"model": spec.name, "max_sequence_length": TOKENS} | changes))

    return make


def save(path: Path) -> None:
    """Write a tiny random Qwen-Image of the real classes, whose prompt template is the 34 tokens that the pipeline drops."""
    torch.manual_seed(3)
    tokenizer = byte_tokenizer()
    diffusers.QwenImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02),
        tokenizer=tokenizer,
        text_encoder=text_encoder(len(tokenizer)),
        transformer=diffusers.QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(4, 6, 6),
        ),
        vae=diffusers.AutoencoderKLQwenImage(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[0.5, 1.5, 1.0, 2.0],
        ),
    ).save_pretrained(path)


def byte_tokenizer() -> transformers.Qwen2Tokenizer:
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<|endoftext|>", *alphabet])}
    tokenizer = transformers.Qwen2Tokenizer(vocab=vocabulary, merges=[])
    begin = (
        "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of th"
    )
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>", "system", "user", "assistant", begin])
    return tokenizer


def text_encoder(vocabulary: int) -> transformers.Qwen2_5_VLForConditionalGeneration:
    text = {
        "vocab_size": vocabulary,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1]},
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def reference(pipeline: diffusers.QwenImagePipeline, job: Job, *, output_type: str = "latent") -> Tensor:
    """Return the pipeline's latents [tokens, 16] of a job of one image, or its picture."""
    options: dict[str, Any] = {}
    if job.source_image is not None:
        pipeline = diffusers.QwenImageImg2ImgPipeline(**pipeline.components)
        pipeline.set_progress_bar_config(disable=True)
        options["image"] = residents.image(job.source_image)
        options["strength"] = 0.6 if job.strength is None else job.strength
    with torch.inference_mode():
        made: Tensor = pipeline(
            prompt=job.prompt,
            negative_prompt=job.negative_prompt,
            height=job.height,
            width=job.width,
            num_inference_steps=job.steps,
            true_cfg_scale=job.guidance_scale,
            max_sequence_length=job.max_sequence_length,
            generator=torch.Generator("cpu").manual_seed(job.seeds[0]),
            output_type=output_type,
            **options,
        ).images[0]
    return made


def test_the_template_is_what_the_pipeline_drops(model: Any, pipeline: Any) -> None:
    before, _ = pipeline.prompt_template_encode.split("{}")
    assert len(pipeline.tokenizer(before).input_ids) == pipeline.prompt_template_encode_start_idx


@pytest.mark.parametrize("size", [(16, 16), (32, 24), (48, 32)])
@pytest.mark.parametrize("steps", [2, 3, 6])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_alone_equals_the_pipeline(
    model: Any, pipeline: Any, job: Any, guidance: float, steps: int, size: tuple[int, int]
) -> None:
    one = job(steps=steps, width=size[0], height=size[1], guidance_scale=guidance)
    (found,) = latents(model, one)
    assert distance(found, reference(pipeline, one)) <= TOLERANCE


def test_rows_of_different_caption_lengths_steps_seeds_guidance_and_tasks_share_a_batch(
    model: Any, pipeline: Any, job: Any
) -> None:
    jobs = [
        job("1", steps=3, seeds=(1,), guidance_scale=1.5, prompt="red"),
        job("2", steps=6, seeds=(2**40,), guidance_scale=7.5, prompt=LONG),
        job("3", steps=5, seeds=(3,), guidance_scale=2.0, prompt="", negative_prompt=LONG),
        job("4", steps=4, seeds=(4,), source_image=PICTURE, strength=0.7, prompt="a blue square"),
    ]
    found = latents(model, *jobs)
    for one, row in zip(jobs, found, strict=True):
        assert distance(row, reference(pipeline, one)) <= TOLERANCE
    assert min(distance(one, other) for one in found for other in found if one is not other) > 0.1


@pytest.mark.parametrize(("steps", "strength"), [(4, None), (5, 0.3), (3, 1.0)])
def test_image_to_image_equals_its_pipeline(
    model: Any, pipeline: Any, job: Any, steps: int, strength: float | None
) -> None:
    one = job(steps=steps, strength=strength, source_image=PICTURE)
    (found,) = latents(model, one)
    assert distance(found, reference(pipeline, one)) <= TOLERANCE


def test_pictures_are_decoded_together_as_the_pipeline_does(model: Any, pipeline: Any, job: Any) -> None:
    jobs = [job("1"), job("2", seeds=(8,), prompt="blue")]
    with torch.inference_mode():
        states = [residents.run(model, states)[0] for states in model.prepare(jobs)]
        pictures = model.decode(states)
    for one, picture in zip(jobs, pictures, strict=True):
        assert distance(picture.clamp(0, 1), reference(pipeline, one, output_type="pt")) <= TOLERANCE


def test_a_caption_too_long_is_cut_as_the_pipeline_does(model: Any, pipeline: Any, job: Any) -> None:
    one = job(prompt=LONG * 2, max_sequence_length=20)
    (found,) = latents(model, one)
    assert distance(found, reference(pipeline, one)) <= TOLERANCE


def test_adapters_of_a_mixed_batch_equal_merged_weights(
    model: Any, spec: ModelSpec, pipeline: Any, job: Any, tmp_path: Path
) -> None:
    file = tmp_path / "adapter.safetensors"
    use = dataclasses.replace(residents.adapter(pipeline.transformer, file), scale=0.5)
    jobs = [job("1", adapters=(use,)), job("2", seeds=(8,))]
    changed, plain = latents(model, *jobs)
    merged = diffusers.QwenImagePipeline.from_pretrained(spec.path, local_files_only=True)
    merged.set_progress_bar_config(disable=True)
    merged.transformer = residents.merged(pipeline.transformer, use)
    assert distance(changed, reference(merged, jobs[0])) <= TOLERANCE
    assert distance(plain, reference(pipeline, jobs[1])) <= TOLERANCE
    assert distance(changed, reference(pipeline, jobs[0])) > 100 * TOLERANCE


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"width": 34}, "width: must be a multiple of 4"),
        ({"height": 33}, "height: must be a multiple of 4"),
        ({"mask_image": b"mask"}, "mask_image"),
        ({"strength": 0.5}, "source_image: strength needs one"),
        ({"source_image": b"no picture"}, "source_image: not a readable picture"),
        ({"source_image": PICTURE, "strength": 0.0}, "strength: 0.0 leaves no step"),
        ({"steps": 1}, "sampler: flow_euler cannot take 1 steps"),  # its last level is stretched to a number above 0
    ],
)
def test_refuses_what_the_model_cannot_do(model: Any, job: Any, changes: Any, text: str) -> None:
    with pytest.raises(errors.BadRequest, match=text):
        model.prepare([job(**changes)])


def test_a_distilled_model_takes_no_guidance(spec: ModelSpec, pipeline: Any, job: Any) -> None:
    lightning = residents.load(qwen_image, dataclasses.replace(spec, guidance="none"))
    one = job(guidance_scale=3.0)
    (found,) = latents(lightning, one)
    assert distance(found, reference(pipeline, dataclasses.replace(one, guidance_scale=1.0))) <= TOLERANCE
    with pytest.raises(errors.BadRequest, match="negative_prompt"):
        lightning.prepare([job(negative_prompt="red")])
    with pytest.raises(errors.LoadFailed, match="embedded guidance"):
        residents.load(qwen_image, dataclasses.replace(spec, guidance="embedded"))


def test_leaves_its_device_and_returns_with_every_bit(model: Any, job: Any) -> None:
    leaving.and_returning(model, lambda: model.decode(residents.develop(model, job(steps=2))))


def test_rows_of_a_draft_skip_blocks_as_they_would_alone(model: Any, job: Any) -> None:
    jobs = [
        job("1", tier="DRAFT", steps=30, guidance_scale=1.5, prompt="red", negative_prompt=LONG),
        job("2", tier="DRAFT", steps=5, guidance_scale=2.0, prompt=LONG),
    ]
    together, alone = residents.develop(model, *jobs), [residents.develop(model, one)[0] for one in jobs]
    assert [state.cached_steps for state in together] == [state.cached_steps for state in alone]
    assert together[0].cached_steps > 0
    for one, other in zip(together, alone, strict=True):
        assert distance(one.latents, other.latents) <= TOLERANCE


def test_high_computes_with_a_lighter_copy(spec: ModelSpec, job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)  # whatever this machine has, it computes
    model = residents.load(qwen_image, spec)
    (high,), (exact,) = residents.develop(model, job(tier="HIGH")), residents.develop(model, job())
    assert (high.tier, high.batch_key.precision) == ("HIGH", "high")
    assert 0 < distance(high.latents, exact.latents) < 0.5
