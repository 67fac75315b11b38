"""A denoiser small enough to read, and LoRA files for it.

In: seeds and ranks. Out: `Denoiser`, `pairs` (tensors by the names in a file), `save`, and `changed`: a copy of the denoiser
with changes added to its weights, which is what applying them must equal.
"""

import copy
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from darkroom.model_runner.engine.job import AdapterUse

NAMES = ("first", "block.second", "conv", "point")


class Denoiser(nn.Module):
    """Pictures [rows, 6, 4, 4] through two convolutions and two linear layers."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(6, width, 3, stride=2, padding=1)
        self.point = nn.Conv2d(width, 6, 1)
        self.first = nn.Linear(6, width)
        self.block = nn.ModuleDict({"second": nn.Linear(width, 5)})
        self.norm = nn.LayerNorm(width)
        self.grouped = nn.Conv2d(6, 6, 1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.point(torch.tanh(self.conv(x))).flatten(2).mT
        y: Tensor = self.block["second"](self.norm(torch.tanh(self.first(seen))))
        return y


def weight(denoiser: nn.Module, name: str) -> nn.Parameter:
    """Return a layer's weight."""
    found = denoiser.get_submodule(name).weight
    assert isinstance(found, nn.Parameter)
    return found


def pairs(seed: int, *, rank: int = 2, prefix: str = "transformer", width: int = 8) -> dict[str, Tensor]:
    """Return the tensors of a LoRA that changes every layer it can."""
    torch.manual_seed(seed)
    tensors = {}
    for name in NAMES:
        shape = weight(Denoiser(width), name).shape
        torch.manual_seed(seed + len(name))
        tensors[f"{prefix}.{name}.lora_A.weight"] = torch.randn(rank, *shape[1:])
        tensors[f"{prefix}.{name}.lora_B.weight"] = torch.randn(shape[0], rank, *(1,) * (len(shape) - 2))
    return tensors


def save(
    folder: Path,
    name: str,
    tensors: Mapping[str, Tensor],
    *,
    scale: float = 1.0,
    metadata: dict[str, str] | None = None,
) -> AdapterUse:
    """Write a file, and return how a job names it."""
    path = folder / f"{name}.safetensors"
    safetensors.torch.save_file(dict(tensors), path, metadata)
    return AdapterUse(path=path, digest=name, scale=scale)


def changed(
    denoiser: nn.Module, *changes: tuple[Mapping[str, Tensor], float], prefix: str = "transformer"
) -> nn.Module:
    """Return a copy of the denoiser with these changes in its weights."""
    copied = copy.deepcopy(denoiser)
    for tensors, strength in changes:
        for name in NAMES:
            down, up = (tensors[f"{prefix}.{name}.lora_{part}.weight"] for part in "AB")
            dense = strength * (up.flatten(1) @ down.flatten(1))
            weight(copied, name).data += dense.view_as(weight(copied, name))
    return copied


def swapped(denoiser: Denoiser) -> list[str]:
    """Return the layers whose weights are not those that the denoiser was made with."""
    fresh = Denoiser(denoiser.first.out_features)
    return [name for name in NAMES if not torch.equal(weight(denoiser, name), weight(fresh, name))]
