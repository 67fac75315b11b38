"""What the tests of all families share: how a model becomes resident and steps, pictures to start from, and LoRAs.

In: a directory and a family's module. Out: the resident model, its rows' latents after their steps, and copies of denoisers with
LoRAs in their weights, which is what applying those must equal.
"""

import copy
import dataclasses
import io
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import safetensors.torch
import torch
from torch import Tensor

from darkroom.model_runner.engine import embeddings, reading, revision
from darkroom.model_runner.engine.families import Family
from darkroom.model_runner.engine.job import AdapterUse, Job, ModelSpec
from darkroom.model_runner.engine.state import State

TOLERANCE = 1e-4  # of latents, whose size is about 1


def spec(path: Path, *, family: str, guidance: Any = "true_cfg", **changes: Any) -> ModelSpec:
    """Return the catalogue entry of a directory."""
    values: dict[str, Any] = {"name": path.name, "family": family, "path": path, "revision": revision.digest(path)}
    return ModelSpec(**(values | {"guidance": guidance, "memory_bytes": 1_000_000} | changes))


def load(module: Any, model: ModelSpec, **options: Any) -> Any:
    """Load a model on the CPU in float32, as the engine's residency calls its family."""
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
def step(model: Family, job: Job) -> State:
    """Return a job's only row after its first step."""
    ((state,),) = model.prepare([job])
    (moved,) = model.advance([state], model.denoise([state]))
    return moved


@torch.inference_mode()
def develop(model: Family, *jobs: Job, arrivals: Sequence[int] = ()) -> list[State]:
    """Return all rows of jobs, whose pictures were read before, after their steps, made in one batch."""
    read = [dataclasses.replace(job, **reading.read(job, model.sizing)) for job in jobs]
    states = [state for rows in model.prepare(read) for state in rows]
    assert len({state.batch_key for state in states}) == 1
    return run(model, states, arrivals=arrivals)


def latents(model: Family, *jobs: Job, arrivals: Sequence[int] = ()) -> list[Tensor]:
    """Return the latents of all rows of jobs, made in one batch."""
    return [state.latents for state in develop(model, *jobs, arrivals=arrivals)]


def distance(one: Tensor, other: Tensor) -> float:
    """Return the largest difference."""
    assert one.shape == other.shape
    return (one - other).abs().max().item()


def changed_layers(unet: torch.nn.Module) -> list[tuple[str, Any]]:
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return [(name, layer) for name, layer in unet.named_modules() if isinstance(layer, kinds)]


def adapter(denoiser: torch.nn.Module, path: Path, *, prefix: str = "transformer", under: str = "") -> AdapterUse:
    """Write a LoRA of rank 4 for the linear layers and convolutions of a denoiser, as diffusers names them; `under` is a regex."""
    torch.manual_seed(5)
    tensors = {}
    for name, layer in changed_layers(denoiser):
        if re.match(under, name):
            rows, *inputs = layer.weight.shape
            tensors[f"{prefix}.{name}.lora_A.weight"] = torch.randn(4, *inputs) / 8
            tensors[f"{prefix}.{name}.lora_B.weight"] = torch.randn(rows, 4, *(1,) * len(inputs[1:])) / 8
    safetensors.torch.save_file(tensors, path)
    return AdapterUse(path=path, digest="a" * 64, scale=1.0)


def merged(denoiser: torch.nn.Module, use: AdapterUse, *, prefix: str = "transformer") -> Any:
    """Return a copy of a denoiser with the adapter in its weights."""
    copied, tensors = copy.deepcopy(denoiser), safetensors.torch.load_file(use.path)
    for name, layer in changed_layers(copied):
        if f"{prefix}.{name}.lora_A.weight" in tensors:
            down, up = (tensors[f"{prefix}.{name}.lora_{part}.weight"].flatten(1) for part in "AB")
            layer.weight.data += use.scale * (up @ down).view_as(layer.weight)
    return copied


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
    """Return the picture of a file."""
    return PIL.Image.open(io.BytesIO(data or b"")).convert("RGB")


def _png(drawn: PIL.Image.Image) -> bytes:
    written = io.BytesIO()
    drawn.save(written, format="PNG")
    return written.getvalue()
