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

from darkroom import catalog
from darkroom.model_runner import messages
from darkroom.model_runner.engine import job as engine_job
from darkroom.model_runner.pocket import scenes

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


def entry(name: str = "pocket-image") -> catalog.ModelEntry:
    """The catalogue's entry of the model that is compared."""
    return catalog.load(pathlib.Path(catalog.__file__).parent / "models")[name]


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


def job(request: Request, model: catalog.ModelEntry) -> engine_job.Job:
    """The request as our engine takes it."""
    return engine_job.Job(
        key=str(request.number),
        tenant_id="benchmark",
        model=model.name,
        prompt=request.prompt,
        width=model.defaults.width,
        height=model.defaults.height,
        steps=request.steps,
        guidance_scale=model.defaults.guidance_scale,
        seeds=(request.number,),
        adapters=(request.adapter,) if request.adapter else (),
        max_sequence_length=model.max_sequence_length,
        priority=engine_job.Priority.INTERACTIVE if request.interactive else engine_job.Priority.STANDARD,
    )


def spec(model: catalog.ModelEntry) -> engine_job.ModelSpec:
    """What our engine reads of the entry."""
    return messages.spec(model)


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
