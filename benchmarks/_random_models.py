"""Published architectures at their real sizes with random weights: time does not depend on the values.

In: a name, a device and a dtype. Out: the diffusers pipeline, made on the device itself (no file is read or written), and the work that
is timed on it. As in models that were read from files, schedulers keep their tables on the CPU and Wan's VAE is in float32. `tiny` gives
the same architectures small enough for a CPU. The tokenizers know letters only; every prompt is padded to its full length all the same.
Next: `gpu_check` runs them by our engine and by diffusers.
"""

import contextlib
import pathlib
import string
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import diffusers
import torch
import transformers

CLIP_TOKENS = 77
NOWHERE = pathlib.Path("/nonexistent")  # these models have no files


class Work(NamedTuple):
    """What is timed on a model."""

    family: str
    make: Callable[[bool], diffusers.DiffusionPipeline]
    """Given whether it shall be tiny."""
    guidance: str
    guidance_scale: float
    size: tuple[int, ...]
    """Width, height and, of a video, frames."""
    steps: int
    """Enough to time one: nine minutes must do for all models."""
    text_tokens: int
    tiny_size: tuple[int, ...]


@contextlib.contextmanager
def made_on(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Within, networks get their weights on the device, in the dtype."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(usual)


def stable_diffusion(tiny: bool) -> diffusers.StableDiffusionPipeline:
    """Stable Diffusion 1.5: 0.86 B parameters."""
    width = 32 if tiny else 768
    widths = (32, 64, 64, 64) if tiny else (320, 640, 1280, 1280)
    return diffusers.StableDiffusionPipeline(
        unet=diffusers.UNet2DConditionModel(
            sample_size=64, cross_attention_dim=width, block_out_channels=widths, layers_per_block=1 if tiny else 2
        ),
        vae=_vae(tiny, scaling_factor=0.18215),
        text_encoder=_clip(width, layers=1 if tiny else 12, heads=2 if tiny else 12),
        tokenizer=_clip_tokenizer(),
        scheduler=_scheduler(
            diffusers.DDIMScheduler,
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(tiny: bool) -> diffusers.StableDiffusionXLPipeline:
    """SDXL base: 2.6 B parameters."""
    first, second = (32, 32) if tiny else (768, 1280)
    return diffusers.StableDiffusionXLPipeline(
        unet=diffusers.UNet2DConditionModel(
            sample_size=128,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(32, 64, 64) if tiny else (320, 640, 1280),
            layers_per_block=1 if tiny else 2,
            transformer_layers_per_block=(1, 1, 1) if tiny else (1, 2, 10),
            attention_head_dim=(2, 4, 4) if tiny else (5, 10, 20),
            cross_attention_dim=first + second,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8 if tiny else 256,
            projection_class_embeddings_input_dim=6 * 8 + second if tiny else 2816,
        ),
        vae=_vae(tiny, scaling_factor=0.13025),
        text_encoder=_clip(first, layers=1 if tiny else 12, heads=2 if tiny else 12),
        text_encoder_2=_clip(second, layers=1 if tiny else 32, heads=2 if tiny else 20, projected=True),
        tokenizer=_clip_tokenizer(),
        tokenizer_2=_clip_tokenizer(),
        scheduler=_scheduler(
            diffusers.EulerDiscreteScheduler,
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
        ),
        add_watermarker=False,
    )


def flux(tiny: bool) -> diffusers.FluxPipeline:
    """FLUX.1-dev: 11.9 B parameters, with the 4.8 B of T5's encoder."""
    small: dict[str, Any] = {
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 32,
        "axes_dims_rope": (4, 6, 6),
    }
    return diffusers.FluxPipeline(
        transformer=diffusers.FluxTransformer2DModel(guidance_embeds=True, **(small if tiny else {})),
        vae=_vae(tiny, latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=_clip(32 if tiny else 768, layers=1 if tiny else 12, heads=2 if tiny else 12),
        text_encoder_2=_t5(transformers.T5EncoderModel, transformers.T5Config, tiny, vocabulary=32_128),
        tokenizer=_clip_tokenizer(),
        tokenizer_2=_t5_tokenizer(),
        scheduler=_scheduler(diffusers.FlowMatchEulerDiscreteScheduler, shift=3.0, use_dynamic_shifting=True),
    )


def wan(tiny: bool) -> diffusers.WanPipeline:
    """Wan 2.1 text to video: 1.3 B parameters, with the 5.7 B of UMT5's encoder."""
    small: dict[str, Any] = {"base_dim": 8, "num_res_blocks": 1}
    return diffusers.WanPipeline(
        transformer=diffusers.WanTransformer3DModel(
            num_attention_heads=2 if tiny else 12,
            attention_head_dim=12 if tiny else 128,
            text_dim=32 if tiny else 4096,
            ffn_dim=32 if tiny else 8960,
            num_layers=1 if tiny else 30,
        ),
        vae=diffusers.AutoencoderKLWan(**(small if tiny else {})).to(torch.float32),
        text_encoder=_t5(transformers.UMT5EncoderModel, transformers.UMT5Config, tiny, vocabulary=256_384),
        tokenizer=_t5_tokenizer(),
        scheduler=_scheduler(
            diffusers.UniPCMultistepScheduler,
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            num_train_timesteps=1000,
            flow_shift=3.0,
        ),
    )


WORKS = {
    "SD1.5 512x512": Work("stable_diffusion", stable_diffusion, "true_cfg", 7.5, (512, 512), 50, 77, (64, 64)),
    "SDXL 1024x1024": Work("sdxl", sdxl, "true_cfg", 5.0, (1024, 1024), 30, 77, (64, 64)),
    "FLUX.1-dev 1024x1024": Work("flux", flux, "embedded", 3.5, (1024, 1024), 28, 512, (64, 64)),
    "Wan 1.3B 832x480x81": Work("wan", wan, "true_cfg", 5.0, (832, 480, 81), 6, 512, (32, 32, 5)),
}


def _scheduler(kind: Any, **config: Any) -> diffusers.SchedulerMixin:
    with torch.device("cpu"):
        return kind(**config)


def _vae(tiny: bool, **config: Any) -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32,) * 4 if tiny else (128, 256, 512, 512),
        layers_per_block=1 if tiny else 2,
        **config,
    )


def _clip(
    width: int, *, layers: int, heads: int, projected: bool = False
) -> transformers.CLIPTextModel | transformers.CLIPTextModelWithProjection:
    tokenizer = _clip_tokenizer()
    config = transformers.CLIPTextConfig(
        hidden_size=width,
        intermediate_size=width * 4,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=width,
        vocab_size=49_408,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return transformers.CLIPTextModelWithProjection(config) if projected else transformers.CLIPTextModel(config)


def _t5(encoder: Any, config: Any, tiny: bool, *, vocabulary: int) -> transformers.PreTrainedModel:
    width = 32 if tiny else 4096
    return encoder(
        config(
            vocab_size=64 if tiny else vocabulary,
            d_model=width,
            d_kv=16 if tiny else 64,
            d_ff=width * 5 // 2,
            num_layers=1 if tiny else 24,
            num_heads=2 if tiny else 64,
            feed_forward_proj="gated-gelu",
        )
    )


def _clip_tokenizer() -> transformers.CLIPTokenizer:
    marks = ("<|startoftext|>", "<|endoftext|>")
    pieces = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase), *marks]
    return transformers.CLIPTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)}, merges=[], model_max_length=CLIP_TOKENS
    )


def _t5_tokenizer() -> transformers.T5TokenizerFast:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -3.0) for letter in string.ascii_lowercase]
    return transformers.T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=512)
