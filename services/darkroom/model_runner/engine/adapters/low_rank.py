"""Low-rank changes beside the weights: y += B A x, for each row of a batch its own pair.

In: a layer's input, and a pair for every row or one for all. Out: what to add to the layer's output. Rows whose pairs have
one rank are multiplied together, each by its own pair, in two batched products (as BGMV kernels do), not one by one.
Next: `bank` adds it.
"""

import collections
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

Layer = nn.Linear | nn.Conv2d


class Pair(NamedTuple):
    """The low-rank change of one layer; `up` carries alpha / rank, and the strength with which it is used."""

    down: Tensor
    """A, [rank, inputs]; for a convolution [rank, inputs, height, width]."""
    up: Tensor
    """B, [outputs, rank]."""


def joined(parts: Sequence[tuple[Pair, float]]) -> Pair:
    """Return one pair that changes as much as these together, each at its strength."""
    ups = [(pair.up.float() * scale).to(pair.up.dtype) for pair, scale in parts]
    if len(parts) == 1:
        return Pair(parts[0][0].down, ups[0])
    return Pair(torch.cat([pair.down for pair, _ in parts]), torch.cat(ups, dim=1))


def shared(layer: Layer, x: Tensor, pair: Pair) -> Tensor:
    """Return what one pair adds to the output of every row."""
    if isinstance(layer, nn.Linear):
        return functional.linear(functional.linear(x, pair.down), pair.up)
    inner = _convolved(layer, x, pair.down, groups=1)
    return functional.conv2d(inner, pair.up[:, :, None, None])


class Places:
    """Where rows lie in a batch, as its device reads it. To send that waits for the device, so a forward does it once."""

    def __init__(self) -> None:
        self._sent: dict[tuple[int, ...], Tensor] = {}

    def of(self, rows: Sequence[int], device: torch.device) -> Tensor:
        """Return the rows' numbers on the device."""
        key = tuple(rows)
        if key not in self._sent:
            self._sent[key] = torch.tensor(rows, device=device)
        return self._sent[key]


def add(layer: Layer, x: Tensor, output: Tensor, pairs: Sequence[Pair | None], places: Places) -> None:
    """Add each row's own change to `output`, [rows, ...]; None leaves a row as it is, bit for bit."""
    if len(x) != len(pairs):
        raise ValueError(f"a layer sees {len(x)} rows of a batch of {len(pairs)}: adapters cannot be told apart there")
    ranks: dict[int, list[int]] = collections.defaultdict(list)
    for row, pair in enumerate(pairs):
        if pair is not None:
            ranks[len(pair.down)].append(row)
    for rows in ranks.values():
        chosen = [pair for row in rows if (pair := pairs[row]) is not None]
        alike = all(pair is chosen[0] for pair in chosen)
        index = None if len(rows) == len(x) else places.of(rows, x.device)
        seen = x if index is None else x[index]
        change = shared(layer, seen, chosen[0]) if alike else _each(layer, seen, chosen)
        if index is None:
            output.add_(change)
        else:
            output.index_add_(0, index, change)


def _each(layer: Layer, x: Tensor, pairs: Sequence[Pair]) -> Tensor:
    """Return what row i's pair adds to it; the pairs have one rank."""
    ups = torch.stack([pair.up for pair in pairs])
    if isinstance(layer, nn.Linear):
        downs = torch.stack([pair.down for pair in pairs])
        inner = torch.bmm(x.reshape(len(x), -1, x.shape[-1]), downs.mT)
        return torch.bmm(inner, ups.mT).reshape(*x.shape[:-1], -1)
    downs = torch.cat([pair.down for pair in pairs])
    side_by_side = _convolved(layer, x.reshape(1, -1, *x.shape[2:]), downs, groups=len(x))
    picture = side_by_side.shape[2:]
    return torch.bmm(ups, side_by_side.reshape(len(x), ups.shape[2], -1)).reshape(len(x), -1, *picture)


def _convolved(layer: nn.Conv2d, x: Tensor, weight: Tensor, *, groups: int) -> Tensor:
    return functional.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation, groups)
