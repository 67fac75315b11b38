"""Weights with an adapter set merged into them, beside the pristine ones.

In: the pairs of a set that a whole batch uses, and the layers they change. Out: for a layer, a copy of its weight with the
change added, made when first asked for. The pristine weight is never written: the copy takes its place for one call of the
layer, so afterwards every bit is as before, whatever failed. Next: `bank` swaps them.

Whether to merge depends on the layer, the pair and the size of the input, never on what ran before, so that a state that is
resumed elsewhere in the same batch meets the same arithmetic; but for a GPU that has too little memory free for all copies.
"""

import os
from typing import NamedTuple

import torch
from torch import Tensor, nn

from darkroom.model_runner.engine.adapters.low_rank import Layer, Pair

_STEPS_PAID = 2.0
"""A merge must cost at most as much as going without it for this many steps: a slice of more steps gains."""
_LOST_MAX = 0.25
"""Share of a change that may be lost by rounding the merged weight; half precision loses small changes almost whole."""
_FREE_SHARE = 0.5
"""Share of an accelerator's free memory that the copies of a set may take (of a host's memory, a quarter); layers for which
there is no room stay unmerged."""


class _Speed(NamedTuple):
    """Roughly how fast a device is; only proportions matter."""

    launch_us: float
    bytes_per_us: float
    flops_per_us: float


_SPEEDS = {"cpu": _Speed(5.0, 1e4, 5e4), "cuda": _Speed(5.0, 2e6, 2e8)}


class Merged:
    """The merged weights of one adapter set."""

    def __init__(self, device: torch.device) -> None:
        """Start with none, and look how much memory they may take."""
        self._weights: dict[str, nn.Parameter | None] = {}
        self._room_bytes = _room_bytes(device)
        self.size_bytes = 0
        """Memory that the copies take."""

    def weight(self, name: str, layer: Layer, pair: Pair, x: Tensor) -> nn.Parameter | None:
        """Return the merged weight for a layer's input `x`, or None where the change is better added beside it."""
        if not pays(layer, pair, x):
            return None
        if name not in self._weights:
            self._weights[name] = self._merge(layer, pair)
        return self._weights[name]

    def _merge(self, layer: Layer, pair: Pair) -> nn.Parameter | None:
        needed = layer.weight.numel() * layer.weight.element_size()
        if self.size_bytes + needed > self._room_bytes:
            return None
        pristine = layer.weight.detach().flatten(1).float()
        wanted = torch.addmm(pristine, pair.up.float(), pair.down.flatten(1).float())
        rounded = wanted.to(layer.weight.dtype)
        if (
            rounded.dtype != torch.float32
            and (rounded.float() - wanted).norm() > _LOST_MAX * (wanted - pristine).norm()
        ):
            return None
        self.size_bytes += needed
        return nn.Parameter(rounded.view_as(layer.weight), requires_grad=False)


def pays(layer: Layer, pair: Pair, x: Tensor) -> bool:
    """Return whether merging costs less than adding the change to this input a few times."""
    if type(layer.weight.data) is not Tensor:  # a quantized weight has no place for a change
        return False
    outputs, inputs, rank = layer.weight.shape[0], layer.weight[0].numel(), len(pair.down)
    positions = x.numel() // layer.weight.shape[1]
    item, speed = x.element_size(), _SPEEDS[x.device.type]
    beside = _cost_us(
        speed,
        launches=3,
        moved=item * positions * (layer.weight.shape[1] + 2 * rank + 4 * outputs),
        flops=2 * positions * rank * (inputs + outputs),
    )
    width = item + 4 if item < 4 else item
    merge = _cost_us(speed, launches=4, moved=3 * width * outputs * inputs, flops=2 * rank * outputs * inputs)
    return merge <= _STEPS_PAID * beside


def _cost_us(speed: _Speed, *, launches: int, moved: int, flops: int) -> float:
    return launches * speed.launch_us + moved / speed.bytes_per_us + flops / speed.flops_per_us


def _room_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * _FREE_SHARE)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
