"""What the tests of both UNet families share: tiny real networks, and diffusers' answer to a job.

In: a loaded diffusers pipeline and a job. Out: the latents that the pipelines of diffusers make of it.
"""

import string
from collections.abc import Mapping
from typing import Any

import diffusers
import PIL.Image
import torch
import transformers
from hypothesis import strategies as st
from torch import Tensor

from darkroom.model_runner.engine.job import Job
from tests.model_runner.engine.families import residents

TOKENS = 12

BETAS: Mapping[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
SCHEDULERS: Mapping[str, tuple[Any, Mapping[str, Any]]] = {
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "euler_ancestral": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "ddim": (diffusers.DDIMScheduler, {"clip_sample": False}),  # its default belongs to models of pixels
    "dpmpp_2m": (diffusers.DPMSolverMultistepScheduler, {}),
    "dpmpp_2m_karras": (diffusers.DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    "dpmpp_2m_sde": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "pndm": (diffusers.PNDMScheduler, {"skip_prk_steps": True}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
    "lcm": (diffusers.LCMScheduler, {}),
}
"""What each of our samplers is called in diffusers."""


def reference(pipelines: Mapping[str, Any], components: Mapping[str, Any], job: Job, **options: Any) -> Tensor:
    """Return what diffusers makes of a job with one seed: by the pipeline for its task, without the batch dimension."""
    call: dict[str, Any] = {"negative_prompt": job.negative_prompt or None, "output_type": "latent"}
    task = "text"
    if job.source_image is None:
        call |= {"width": job.width, "height": job.height}
    else:
        drawn = residents.image(job.source_image)
        task, call["image"] = "image", drawn.resize((job.width, job.height), PIL.Image.LANCZOS)
    if job.mask_image is not None:
        call |= {"image": residents.image(job.source_image), "mask_image": residents.image(job.mask_image)}
        task, call["width"], call["height"] = "inpaint", job.width, job.height
    if job.strength is not None:
        call["strength"] = job.strength
    parts = dict(components)
    if job.sampler:
        kind, changes = SCHEDULERS[job.sampler]
        parts["scheduler"] = kind.from_config(parts["scheduler"].config, **changes)
    pipeline = pipelines[task](**parts)
    pipeline.set_progress_bar_config(disable=True)
    with torch.inference_mode():
        found: Tensor = pipeline(
            job.prompt,
            num_inference_steps=job.steps,
            guidance_scale=job.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(job.seeds[0]),
            **(call | options),
        ).images[0]
    return found


@st.composite
def mixtures(draw: st.DrawFn) -> list[Mapping[str, Any]]:
    """Return what sets the rows of one batch apart: what a job asks for, and at which turn it joins (`arrival`)."""
    row = st.fixed_dictionaries(
        {
            "sampler": st.sampled_from(sorted(SCHEDULERS)),
            "steps": st.integers(1, 5),
            "guidance_scale": st.sampled_from([1.5, 3.0, 5.0]),
            "prompt": st.sampled_from(["", "a red circle", "blue square left"]),
            "negative_prompt": st.sampled_from(["", "green"]),
            "seeds": st.tuples(st.integers(0, 2**40)),
            "arrival": st.integers(0, 4),
        }
    )
    return draw(st.lists(row, min_size=2, max_size=5))


def vae(**changes: Any) -> diffusers.AutoencoderKL:
    values: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (4, 4, 4, 8),
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "scaling_factor": 0.5,
    }
    return diffusers.AutoencoderKL(**(values | changes))


def unet(**changes: Any) -> diffusers.UNet2DConditionModel:
    values: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 2,
        "norm_num_groups": 4,
        "cross_attention_dim": 16,
    }
    return diffusers.UNet2DConditionModel(**(values | changes))


def text_encoder(kind: Any, tokenizer: transformers.CLIPTokenizer, **changes: Any) -> Any:
    values: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return kind(transformers.CLIPTextConfig(**(values | changes)))


def tokenizer() -> transformers.CLIPTokenizer:
    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    vocabulary = {token: index for index, token in enumerate(["<|startoftext|>", "<|endoftext|>", *letters])}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=TOKENS)
