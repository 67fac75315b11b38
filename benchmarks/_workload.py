"""Requests that differ in everything that people let differ, and when they come.

In: a seed, a number of requests and a rate. Out: the same requests at the same times for every engine that is compared: 4, 28 or 50
steps, three in ten interactive, a quarter with one of eight LoRAs. Next: `engine_mixed` and `soak` hand them to engines.
"""

import hashlib
import pathlib
import random
from typing import NamedTuple

import safetensors.torch
import torch

from darkroom.model_runner.engine import job as engine_job
from darkroom.model_runner.engine import revision
from darkroom.model_runner.pocket import scenes

POCKET = pathlib.Path(revision.__file__).parents[2] / "models" / "pocket-image"
SIDE_PX, GUIDANCE_SCALE, TEXT_TOKENS = 64, 3.0, 20  # of its catalogue entry, whose reader a bare GPU machine lacks

STEPS = (4, 28, 50)
INTERACTIVE_SHARE = 0.3
ADAPTED_SHARE = 0.25
ADAPTERS = 8
ADAPTER_RANK = 4
ADAPTER_DEVIATION = 0.02  # small: it must cost what a LoRA costs, not change the picture


class Request(NamedTuple):
    """One picture that somebody asks for, `arrival_s` after the start."""

    number: int
    arrival_s: float
    prompt: str
    steps: int
    interactive: bool
    adapter: engine_job.AdapterUse | None


def requests(count: int, *, per_s: float | None, adapters: list[engine_job.AdapterUse], seed: int = 0) -> list[Request]:
    """Draw requests with exponential gaps (Poisson arrivals); all at once without a rate."""
    draw = random.Random(seed)
    prompts = [scenes.prompt(scene) for scene in scenes.evaluation_scenes(count, combinations_held_out=False)]
    arrival_s, drawn = 0.0, []
    for number, prompt in enumerate(prompts):
        arrival_s += draw.expovariate(per_s) if per_s else 0.0
        steps, interactive = draw.choice(STEPS), draw.random() < INTERACTIVE_SHARE
        adapter = draw.choice(adapters) if draw.random() < ADAPTED_SHARE else None
        drawn.append(Request(number, arrival_s, prompt, steps, interactive, adapter))
    return drawn


def job(request: Request) -> engine_job.Job:
    """The request as our engine takes it."""
    return engine_job.Job(
        key=str(request.number),
        tenant_id="benchmark",
        model=POCKET.name,
        prompt=request.prompt,
        width=SIDE_PX,
        height=SIDE_PX,
        steps=request.steps,
        guidance_scale=GUIDANCE_SCALE,
        seeds=(request.number,),
        adapters=(request.adapter,) if request.adapter else (),
        max_sequence_length=TEXT_TOKENS,
        priority=engine_job.Priority.INTERACTIVE if request.interactive else engine_job.Priority.STANDARD,
    )


def spec() -> engine_job.ModelSpec:
    """What our engine reads of pocket-image's catalogue entry."""
    return engine_job.ModelSpec(
        name=POCKET.name,
        family="flux",
        path=POCKET,
        revision=revision.digest(POCKET),
        guidance="true_cfg",
        memory_bytes=64_000_000,
    )


def write_adapters(folder: pathlib.Path, denoiser: torch.nn.Module) -> list[engine_job.AdapterUse]:
    """Write LoRAs with random weights for the attention of a denoiser into the folder."""
    uses = []
    for number in range(ADAPTERS):
        random_numbers = torch.Generator().manual_seed(number)
        tensors = {}
        for name, module in denoiser.named_modules():
            if isinstance(module, torch.nn.Linear) and name.rpartition(".")[2] in ("to_q", "to_k", "to_v"):
                for part, shape in (
                    ("lora_A", (ADAPTER_RANK, module.in_features)),
                    ("lora_B", (module.out_features, ADAPTER_RANK)),
                ):
                    weights = torch.randn(shape, generator=random_numbers) * ADAPTER_DEVIATION
                    tensors[f"transformer.{name}.{part}.weight"] = weights
        path = folder / f"adapter-{number}.safetensors"
        safetensors.torch.save_file(tensors, path)
        digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
        uses.append(engine_job.AdapterUse(path=path, digest=digest, scale=1.0))
    return uses
