"""Tiny random Wan and Stable Audio models: every class is the real one, only small.

In: a folder. Out: directories as diffusers' pipelines save them.
"""

import io
import json
from pathlib import Path
from typing import Any

import diffusers
import PIL.Image
import torch
import transformers
from diffusers.pipelines.stable_audio import StableAudioProjectionModel

from darkroom.model_runner.engine.job import Usage

TOKENS = 8
NO_USAGE = Usage(adapters_us=0, prepare_us=0, denoise_us=0, decode_us=0, steps=0, images=0, pixels=0)
WORDS = ("a", "red", "blue", "circle", "square", "moves", "right", "low", "high", "tone", "noise")


def wan(path: Path, *, image: bool = False, two: bool = False, **scheduler: Any) -> None:
    """Save a Wan: text or image to video; `two` as 2.2 has it, with a transformer for each end of the noise levels."""
    torch.manual_seed(len(path.name))
    parts: dict[str, Any] = {"transformer": _wan_transformer(36 if image else 16, clip=image and not two)}
    if two:
        parts |= {"transformer_2": _wan_transformer(36 if image else 16, clip=False), "boundary_ratio": 0.875}
    if image and not two:
        parts |= _clip_vision()
    kind = diffusers.WanImageToVideoPipeline if image else diffusers.WanPipeline
    pipeline = kind(
        scheduler=diffusers.UniPCMultistepScheduler(
            **{"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0} | scheduler
        ),
        vae=_wan_vae(),
        text_encoder=transformers.UMT5EncoderModel(
            transformers.UMT5Config(
                vocab_size=len(_tokenizer()), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2
            )
        ),
        tokenizer=_tokenizer(),
        **parts,
    )
    pipeline.save_pretrained(path)


def stable_audio(path: Path, *, scheduler: str = "EDMDPMSolverMultistepScheduler", **changes: Any) -> None:
    """Save a Stable Audio with a window of 256 samples, 2 channels at 8 kHz."""
    torch.manual_seed(len(path.name))
    vae = diffusers.AutoencoderOobleck(
        encoder_hidden_size=4,
        downsampling_ratios=[2, 4],
        channel_multiples=[1, 2],
        decoder_channels=4,
        decoder_input_channels=8,
        sampling_rate=8000,
    )
    pipeline = diffusers.StableAudioPipeline(
        vae=vae,
        text_encoder=transformers.T5EncoderModel(
            transformers.T5Config(vocab_size=len(_tokenizer()), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        ),
        projection_model=StableAudioProjectionModel(
            text_encoder_dim=16, conditioning_dim=16, min_value=0, max_value=512
        ),
        tokenizer=_tokenizer(),
        transformer=diffusers.StableAudioDiTModel(
            sample_size=32,
            in_channels=8,
            out_channels=8,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            num_key_value_attention_heads=2,
            cross_attention_dim=16,
            time_proj_dim=16,
            global_states_input_dim=32,
            cross_attention_input_dim=16,
        ),
        scheduler=diffusers.EDMDPMSolverMultistepScheduler(
            sigma_min=0.3, sigma_max=50.0, sigma_data=1.0, sigma_schedule="exponential", prediction_type="v_prediction"
        ),
    )
    pipeline.save_pretrained(path)
    _rewrite(path / "scheduler" / "scheduler_config.json", {"_class_name": scheduler} | changes)
    _rewrite(path / "model_index.json", {"scheduler": ["diffusers", scheduler]})


def picture() -> bytes:
    """Return a PNG of 50 x 40 pixels."""
    drawn = torch.arange(3 * 40 * 50).reshape(40, 50, 3).remainder(251).to(torch.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(drawn.numpy()).save(file, format="PNG")
    return file.getvalue()


def _rewrite(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _wan_transformer(channels: int, *, clip: bool) -> diffusers.WanTransformer3DModel:
    return diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels,
        out_channels=16,
        text_dim=16,
        freq_dim=16,
        ffn_dim=24,
        num_layers=2,
        image_dim=8 if clip else None,
        added_kv_proj_dim=24 if clip else None,
    )


def _wan_vae() -> diffusers.AutoencoderKLWan:
    return diffusers.AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)


def _clip_vision() -> dict[str, Any]:
    config = transformers.CLIPVisionConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
    )
    return {
        "image_encoder": transformers.CLIPVisionModel(config),
        "image_processor": transformers.CLIPImageProcessor(
            size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}
        ),
    }


def _tokenizer() -> transformers.T5TokenizerFast:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -8.0), *((f"▁{word}", -1.0) for word in WORDS)]
    return transformers.T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=TOKENS)
