"""What the tests of both UNet families share: tiny real networks, source pictures, and diffusers' answer to a job.

In: a loaded diffusers pipeline and a job. Out: the latents that the pipelines of diffusers make of it.
"""

import copy
import io
import itertools
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import PIL.Image
import safetensors.torch
import torch
import transformers
from hypothesis import strategies as st
from torch import Tensor

from darkroom.model_runner.engine import embeddings, revision
from darkroom.model_runner.engine.families import Family
from darkroom.model_runner.engine.job import AdapterUse, Job, ModelSpec
from darkroom.model_runner.engine.state import State

TOKENS = 12
TOLERANCE = 1e-4  # of latents, whose size is about 1

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


def spec(path: Path, *, family: str, guidance: Any = "true_cfg") -> ModelSpec:
    digest = revision.digest(path)
    return ModelSpec(
        name=path.name, family=family, path=path, revision=digest, guidance=guidance, memory_bytes=1_000_000
    )


def load(module: Any, model: ModelSpec, **options: Any) -> Any:
    values = {
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "adapters_resident_max": 4,
        "embeddings": embeddings.Cache(bytes_max=1 << 20).of(model.revision),
    }
    return module.load(model, **(values | options))


def run(model: Family, states: list[State], *, arrivals: Sequence[int] = ()) -> list[State]:
    """Step states with one batch key, each until its own end; those with an arrival join the batch at that turn."""
    turns = itertools.zip_longest(arrivals or [0] * len(states), [state.steps_total - state.step for state in states])
    spans = [range(arrival, arrival + steps) for arrival, steps in turns]
    for turn in range(max(span.stop for span in spans)):
        going = [index for index, span in enumerate(spans) if turn in span]
        batch = [states[index] for index in going]
        for index, state in zip(going, model.advance(batch, model.denoise(batch)) if batch else [], strict=True):
            states[index] = state
    return states


@torch.inference_mode()
def latents(model: Family, *jobs: Job, arrivals: Sequence[int] = ()) -> list[Tensor]:
    """Return the latents of all rows of jobs, made in one batch."""
    states = [state for rows in model.prepare(jobs) for state in rows]
    assert len({state.batch_key for state in states}) == 1
    return [state.latents for state in run(model, states, arrivals=arrivals)]


def reference(pipelines: Mapping[str, Any], components: Mapping[str, Any], job: Job, **options: Any) -> Tensor:
    """Return what diffusers makes of a job with one seed: by the pipeline for its task, without the batch dimension."""
    call: dict[str, Any] = {"negative_prompt": job.negative_prompt or None, "output_type": "latent"}
    task = "text"
    if job.source_image is None:
        call |= {"width": job.width, "height": job.height}
    else:
        task, call["image"] = "image", image(job.source_image).resize((job.width, job.height), PIL.Image.LANCZOS)
    if job.mask_image is not None:
        call |= {"image": image(job.source_image), "mask_image": image(job.mask_image)}
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


def distance(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    return (one - other).abs().max().item()


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


def adapter(unet: torch.nn.Module, path: Path) -> AdapterUse:
    """Write a LoRA of rank 2 for every linear layer and convolution of a UNet, as diffusers names them."""
    torch.manual_seed(5)
    tensors = {}
    for name, layer in changed_layers(unet):
        rows, *inputs = layer.weight.shape
        tensors[f"unet.{name}.lora_A.weight"] = torch.randn(2, *inputs) / 8
        tensors[f"unet.{name}.lora_B.weight"] = torch.randn(rows, 2, *(1,) * len(inputs[1:])) / 8
    safetensors.torch.save_file(tensors, path)
    return AdapterUse(path=path, digest="a" * 64, scale=1.0)


def merged(unet: torch.nn.Module, use: AdapterUse) -> Any:
    """Return a copy of a UNet with the adapter in its weights."""
    copied, tensors = copy.deepcopy(unet), safetensors.torch.load_file(use.path)
    for name, layer in changed_layers(copied):
        down, up = (tensors[f"unet.{name}.lora_{part}.weight"].flatten(1) for part in "AB")
        layer.weight.data += use.scale * (up @ down).view_as(layer.weight)
    return copied


def changed_layers(unet: torch.nn.Module) -> list[tuple[str, Any]]:
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return [(name, layer) for name, layer in unet.named_modules() if isinstance(layer, kinds)]


def picture(width: int, height: int) -> bytes:
    """Return the PNG of a coloured gradient."""
    rows, columns = torch.meshgrid(torch.linspace(0, 255, height), torch.linspace(0, 255, width), indexing="ij")
    drawn = torch.stack([rows, columns, (rows + 2 * columns) % 256], dim=-1).to(torch.uint8)
    return _png(PIL.Image.fromarray(drawn.numpy()))


def mask(width: int, height: int) -> bytes:
    """Return the PNG of a mask whose left half is white."""
    drawn = PIL.Image.new("RGB", (width, height))
    drawn.paste((255, 255, 255), (0, 0, width // 2, height))
    return _png(drawn)


def image(data: bytes | None) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(data or b"")).convert("RGB")


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


def _png(drawn: PIL.Image.Image) -> bytes:
    written = io.BytesIO()
    drawn.save(written, format="PNG")
    return written.getvalue()
