"""The Z-Image family paints what diffusers.ZImagePipeline and ZImageImg2ImgPipeline paint, alone and in mixed batches."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import PIL.Image
import pytest
import safetensors.torch
import tokenizers
import torch
import transformers
from torch import Tensor

from darkroom.model_runner.engine import errors
from darkroom.model_runner.engine.families import z_image
from darkroom.model_runner.engine.job import AdapterUse, Job, ModelSpec
from tests.model_runner.engine.families import leaving, residents
from tests.model_runner.engine.families.residents import TOLERANCE, distance

PICTURE = residents.picture(40, 36)
TOKENS = 64
LONG = "a red circle left of a blue square"
TEMPLATE = "{% for message in messages %}{{ message.role[0] }}>{{ message.content }};{% endfor %}a>"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> diffusers.ZImagePipeline:
    folder = tmp_path_factory.mktemp("z_image")
    save(folder)
    loaded = diffusers.ZImagePipeline.from_pretrained(folder, local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def spec(pipeline: diffusers.ZImagePipeline) -> ModelSpec:
    return residents.spec(Path(pipeline.name_or_path), family="z_image")


@pytest.fixture(scope="module")
def model(spec: ModelSpec) -> z_image.ZImage:
    loaded: z_image.ZImage = residents.load(z_image, spec)
    return loaded


@pytest.fixture
def job(make_job: Callable[..., Job], spec: ModelSpec) -> Callable[..., Job]:
    def make(key: str = "1", **changes: Any) -> Job:
        return make_job(key, **({"model": spec.name, "max_sequence_length": TOKENS} | changes))

    return make


def save(path: Path) -> None:
    """Write a tiny random Z-Image: real classes, a byte-level tokenizer and a chat template of its own."""
    torch.manual_seed(3)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = transformers.Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(["<|endoftext|>", *alphabet])}, merges=[]
    )
    tokenizer.chat_template = TEMPLATE
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=24,
        axes_dims=[4, 6, 6],
        axes_lens=[256, 32, 32],
    )
    for token in (transformer.x_pad_token, transformer.cap_pad_token):
        torch.nn.init.normal_(token)
    diffusers.ZImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        tokenizer=tokenizer,
        text_encoder=transformers.Qwen3Model(
            transformers.Qwen3Config(
                vocab_size=len(tokenizer),
                hidden_size=24,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=12,
            )
        ),
        transformer=transformer,
        vae=diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 16),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            use_quant_conv=False,
            use_post_quant_conv=False,
            scaling_factor=0.5,
            shift_factor=0.1,
        ),
    ).save_pretrained(path)


def reference(pipeline: diffusers.ZImagePipeline, job: Job, *, output_type: str = "latent") -> Tensor:
    """Return the pipeline's latents [4, rows, columns] of a job of one image, or its picture."""
    options: dict[str, Any] = {}
    if job.source_image is not None:
        pipeline = diffusers.ZImageImg2ImgPipeline(**pipeline.components)
        pipeline.set_progress_bar_config(disable=True)
        drawn = residents.image(job.source_image)
        options["image"] = drawn.resize((job.width, job.height), PIL.Image.Resampling.LANCZOS)
        options["strength"] = 0.6 if job.strength is None else job.strength
    with torch.inference_mode():
        made: Tensor = pipeline(
            prompt=job.prompt,
            negative_prompt=job.negative_prompt,
            height=job.height,
            width=job.width,
            num_inference_steps=job.steps,
            guidance_scale=job.guidance_scale,
            max_sequence_length=job.max_sequence_length,
            generator=torch.Generator("cpu").manual_seed(job.seeds[0]),
            output_type=output_type,
            **options,
        ).images[0]
    return made


@pytest.mark.parametrize("size", [(16, 16), (32, 24), (48, 32)])
@pytest.mark.parametrize("steps", [1, 3, 6])
@pytest.mark.parametrize("guidance", [0.0, 4.0])
def test_alone_equals_the_pipeline(
    model: Any, pipeline: Any, job: Any, guidance: float, steps: int, size: tuple[int, int]
) -> None:
    one = job(steps=steps, width=size[0], height=size[1], guidance_scale=guidance)
    (state,) = residents.develop(model, one)
    assert state.batch_key.guided == (guidance > 0)
    assert distance(state.latents, reference(pipeline, one)) <= TOLERANCE


def test_rows_of_different_caption_lengths_steps_seeds_guidance_and_tasks_share_a_batch(
    model: Any, pipeline: Any, job: Any
) -> None:
    jobs = [
        job("1", steps=3, seeds=(1,), guidance_scale=1.5, prompt="red", negative_prompt=LONG),
        job("2", steps=6, seeds=(2**40,), guidance_scale=7.5, prompt=LONG),
        job("3", steps=5, seeds=(3,), guidance_scale=0.5, prompt="", negative_prompt=LONG),
        job("4", steps=4, seeds=(4,), source_image=PICTURE, strength=0.7),
    ]
    states = residents.develop(model, *jobs)
    for one, state in zip(jobs, states, strict=True):
        assert distance(state.latents, reference(pipeline, one)) <= TOLERANCE
    (short,), (long,) = model.prepare([job(prompt="red"), job(prompt=LONG)])
    assert (short.batch_key.text_tokens, long.batch_key.text_tokens) == (32, 64)


@pytest.mark.parametrize(("steps", "strength"), [(4, None), (5, 0.3), (3, 1.0)])
def test_image_to_image_equals_its_pipeline(
    model: Any, pipeline: Any, job: Any, steps: int, strength: float | None
) -> None:
    one = job(steps=steps, strength=strength, source_image=PICTURE)
    (state,) = residents.develop(model, one)
    assert state.steps_total == (steps if strength == 1 else steps - int(steps - steps * (strength or 0.6)))
    assert distance(state.latents, reference(pipeline, one)) <= TOLERANCE


def test_pictures_are_decoded_together_as_the_pipeline_does(model: Any, pipeline: Any, job: Any) -> None:
    jobs = [job("1"), job("2", seeds=(8,), prompt="blue", negative_prompt=LONG)]
    with torch.inference_mode():
        pictures = model.decode(residents.develop(model, *jobs))
    for one, picture in zip(jobs, pictures, strict=True):
        expected = reference(pipeline, one, output_type="pt")
        assert distance(picture.clamp(0, 1), expected) <= TOLERANCE


def test_each_seed_is_its_own_image(model: Any, pipeline: Any, job: Any) -> None:
    states = residents.develop(model, job(seeds=(7, 8), source_image=PICTURE))
    for seed, state in zip((7, 8), states, strict=True):
        expected = reference(pipeline, job(seeds=(seed,), source_image=PICTURE))
        assert distance(state.latents, expected) <= TOLERANCE


@torch.inference_mode()
def test_adapters_of_a_mixed_batch_equal_merged_weights(
    model: Any, spec: ModelSpec, pipeline: Any, job: Any, tmp_path: Path
) -> None:
    changed = "layers|context_refiner|noise_refiner"  # what sees a batch row by row
    use = residents.adapter(pipeline.transformer, tmp_path / "adapter.safetensors", under=changed)
    scales = (0.0, 1.0, -0.5)
    jobs = [
        job(str(scale), seeds=(index,), adapters=(dataclasses.replace(use, scale=scale),) if scale else ())
        for index, scale in enumerate(scales)
    ]
    plain = reference(pipeline, jobs[1])
    for one, scale, state in zip(jobs, scales, residents.develop(model, *jobs), strict=True):
        merged = diffusers.ZImagePipeline.from_pretrained(spec.path, local_files_only=True)
        merged.set_progress_bar_config(disable=True)
        merged.transformer = residents.merged(pipeline.transformer, dataclasses.replace(use, scale=scale))
        assert distance(state.latents, reference(merged, one)) <= TOLERANCE
    assert distance(residents.develop(model, jobs[1])[0].latents, plain) > 100 * TOLERANCE


def test_refuses_an_adapter_of_the_embedders(model: Any, tmp_path: Path) -> None:
    name = "transformer.cap_embedder.1"
    tensors = {f"{name}.lora_A.weight": torch.ones(1, 24), f"{name}.lora_B.weight": torch.ones(32, 1)}
    safetensors.torch.save_file(tensors, tmp_path / "adapter.safetensors")
    with pytest.raises(errors.BadAdapter, match="cap_embedder"):
        model.bank.get(AdapterUse(path=tmp_path / "adapter.safetensors", digest="b" * 64, scale=1.0))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"width": 34}, "width: must be a multiple of 4"),
        ({"height": 33}, "height: must be a multiple of 4"),
        ({"mask_image": b"mask"}, "mask_image"),
        ({"strength": 0.5}, "source_image: strength needs one"),
        ({"source_image": b"no picture"}, "source_image: not a readable picture"),
        ({"source_image": PICTURE, "strength": 0.0}, "strength: 0.0 leaves no step"),
    ],
)
def test_refuses_what_the_model_cannot_do(model: Any, job: Any, changes: Any, text: str) -> None:
    with pytest.raises(errors.BadRequest, match=text):
        model.prepare([job(**changes)])


def test_a_distilled_model_takes_no_guidance(spec: ModelSpec, pipeline: Any, job: Any) -> None:
    turbo = residents.load(z_image, dataclasses.replace(spec, guidance="none"))
    one = job(guidance_scale=3.0)
    (state,) = residents.develop(turbo, one)
    assert not state.batch_key.guided
    assert distance(state.latents, reference(pipeline, dataclasses.replace(one, guidance_scale=0.0))) <= TOLERANCE
    with pytest.raises(errors.BadRequest, match="negative_prompt"):
        turbo.prepare([job(negative_prompt="red")])
    with pytest.raises(errors.LoadFailed, match="embedded guidance"):
        residents.load(z_image, dataclasses.replace(spec, guidance="embedded"))


def test_leaves_its_device_and_returns_with_every_bit(model: Any, job: Any) -> None:
    leaving.and_returning(model, lambda: model.decode(residents.develop(model, job(steps=2))))


def test_computes_in_the_dtype_it_is_told(spec: ModelSpec, model: Any, job: Any) -> None:
    half = residents.load(z_image, spec, dtype=torch.bfloat16)
    (state,), (precise,) = residents.develop(half, job()), residents.develop(model, job())
    assert state.latents.dtype == torch.float32
    assert 0 < distance(state.latents, precise.latents) < 0.5


def test_rows_of_a_draft_skip_blocks_as_they_would_alone(model: Any, job: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(model.tiers._cache, "_threshold", 2.0)  # random weights change a lot from step to step
    jobs = [
        job("1", tier="DRAFT", steps=9, guidance_scale=1.0, prompt="red", negative_prompt=LONG),
        job("2", tier="DRAFT", steps=5, guidance_scale=2.0, prompt=LONG),
    ]
    together, alone = residents.develop(model, *jobs), [residents.develop(model, one)[0] for one in jobs]
    assert [state.cached_steps for state in together] == [state.cached_steps for state in alone]
    assert together[0].cached_steps > 0
    for one, other in zip(together, alone, strict=True):
        assert distance(one.latents, other.latents) <= TOLERANCE


def test_high_computes_with_a_lighter_copy(spec: ModelSpec, job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)  # whatever this machine has, it computes
    model = residents.load(z_image, spec)
    (high,), (exact,) = residents.develop(model, job(tier="HIGH")), residents.develop(model, job())
    assert (high.tier, high.batch_key.precision) == ("HIGH", "high")
    assert 0 < distance(high.latents, exact.latents) < 0.5
