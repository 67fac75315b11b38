"""LoRAs, applied without touching the weights: y += scale · B A x, for each row its own.

In: a safetensors file with diffusers' (PEFT) names, `transformer.<module>.lora_A.weight`, `….lora_B.weight` and
perhaps `transformer.<module>.alpha`. Out: low-rank pairs on the device, and a context in which a forward adds them
row by row, so that one batch may mix adapters, several for one row, and rows with none. Next: `families` call the
denoiser inside `applied`.
"""

import collections
import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import safetensors
import torch
from torch import Tensor, nn

from darkroom.model_runner.engine import errors
from darkroom.model_runner.engine.job import AdapterUse

_KEY = re.compile(r"transformer\.(?P<module>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|alpha)")
_UNSUPPORTED = ("use_dora", "use_rslora", "alpha_pattern", "lora_bias")


class Pair(NamedTuple):
    """The low-rank change of one linear layer; `up` carries alpha / rank."""

    down: Tensor
    """A, [rank, inputs]."""
    up: Tensor
    """B, [outputs, rank]."""


Adapter = Mapping[str, Pair]
"""By name of the linear layer inside the transformer."""


class _Part(NamedTuple):
    rows: Tensor | None
    """Indices into the batch; None for all rows."""
    pair: Pair
    scales: Tensor


class Bank:
    """The LoRAs resident for one model; the longest unused leaves when there are too many."""

    def __init__(self, denoiser: nn.Module, *, resident_max: int) -> None:
        """Take the linear layers of `denoiser`; the pairs will lie on its device, in its dtype."""
        self._linears = {name: module for name, module in denoiser.named_modules() if isinstance(module, nn.Linear)}
        self._resident: collections.OrderedDict[str, Adapter] = collections.OrderedDict()
        self._resident_max = resident_max

    @property
    def digests(self) -> tuple[str, ...]:
        """What is resident, longest unused first."""
        return tuple(self._resident)

    def get(self, use: AdapterUse) -> Adapter:
        """Return the adapter, read from its file if it is not resident; BadAdapter names the key that does not fit."""
        if use.digest not in self._resident:
            self._resident[use.digest] = read(use, self._linears)
            if len(self._resident) > self._resident_max:
                self._resident.popitem(last=False)
        self._resident.move_to_end(use.digest)
        return self._resident[use.digest]

    @contextlib.contextmanager
    def applied(self, rows: Sequence[Sequence[AdapterUse]]) -> Iterator[None]:
        """Within, a forward of the denoiser over `len(rows)` rows gives each row its own adapters."""
        hooks = [
            self._linears[module].register_forward_hook(_adder(parts)) for module, parts in self._parts(rows).items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _parts(self, rows: Sequence[Sequence[AdapterUse]]) -> Mapping[str, list[_Part]]:
        scales: dict[str, dict[int, float]] = collections.defaultdict(lambda: collections.defaultdict(float))
        uses = {use.digest: use for row in rows for use in row}
        for index, row in enumerate(rows):
            for use in row:
                scales[use.digest][index] += use.scale
        parts: dict[str, list[_Part]] = collections.defaultdict(list)
        for digest, use in uses.items():
            chosen = scales[digest]
            adapter = self.get(use)
            any_tensor = next(iter(adapter.values())).up
            column = torch.tensor(list(chosen.values()), dtype=any_tensor.dtype, device=any_tensor.device)
            indices = torch.tensor(list(chosen), device=any_tensor.device) if len(chosen) < len(rows) else None
            for module, pair in adapter.items():
                parts[module].append(_Part(indices, pair, column))
        return parts


def read(use: AdapterUse, linears: Mapping[str, nn.Linear]) -> Adapter:
    """Read and check one file against the layers it changes; BadAdapter names the key at fault."""
    try:
        with safetensors.safe_open(use.path, framework="pt") as file:
            alpha = _metadata_alpha(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, safetensors.SafetensorError) as error:
        raise errors.BadAdapter(f"adapter {use.digest} is not a readable safetensors file: {error}") from error
    modules = _by_module(tensors, linears)
    if not modules:
        raise errors.BadAdapter(f"adapter {use.digest} holds no tensors")
    return {module: _pair(module, parts, linears[module], alpha) for module, parts in modules.items()}


def _by_module(tensors: Mapping[str, Tensor], linears: Mapping[str, nn.Linear]) -> dict[str, dict[str, Tensor]]:
    modules: dict[str, dict[str, Tensor]] = collections.defaultdict(dict)
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise errors.BadAdapter(
                f"adapter key {key!r} is not transformer.<module>.lora_A.weight, .lora_B.weight or .alpha"
            )
        if match["module"] not in linears:
            raise errors.BadAdapter(f"adapter key {key!r} names no linear layer of this model")
        modules[match["module"]][match["part"]] = tensor
    return modules


def _pair(module: str, parts: Mapping[str, Tensor], linear: nn.Linear, alpha: float | None) -> Pair:
    for part in ("lora_A.weight", "lora_B.weight"):
        if part not in parts:
            raise errors.BadAdapter(f"adapter key 'transformer.{module}.{part}' is missing")
    down, up = parts["lora_A.weight"], parts["lora_B.weight"]
    rank = down.shape[0]
    for part, shape in (("lora_A.weight", (rank, linear.in_features)), ("lora_B.weight", (linear.out_features, rank))):
        if tuple(parts[part].shape) != shape or not rank or not parts[part].is_floating_point():
            found = f"{tuple(parts[part].shape)} {parts[part].dtype}"
            raise errors.BadAdapter(
                f"adapter key 'transformer.{module}.{part}' is {found}, but the model needs {shape}"
            )
    if "alpha" in parts:
        if parts["alpha"].numel() != 1:
            raise errors.BadAdapter(f"adapter key 'transformer.{module}.alpha' is not one number")
        alpha = parts["alpha"].item()
    strength = 1.0 if alpha is None else alpha / rank
    if not (torch.isfinite(down).all() and torch.isfinite(up * strength).all()):
        raise errors.BadAdapter(f"adapter module 'transformer.{module}' holds NaN or infinity")
    weight = linear.weight
    return Pair(down.to(weight.device, weight.dtype), (up.float() * strength).to(weight.device, weight.dtype))


def _metadata_alpha(metadata: Mapping[str, str]) -> float | None:
    """Return the alpha that diffusers wrote beside the tensors, if any; refuse variants of other arithmetic."""
    try:
        config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        for name in _UNSUPPORTED:
            if config.get(f"transformer.{name}"):
                raise errors.BadAdapter(f"adapter metadata asks for {name}, which is not supported")
        alpha = config.get("transformer.lora_alpha")
        return None if alpha is None else float(alpha)
    except (ValueError, TypeError, AttributeError) as error:
        raise errors.BadAdapter("adapter metadata 'lora_adapter_metadata' is not what diffusers writes") from error


def _adder(parts: Sequence[_Part]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def add(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        for rows, pair, scales in parts:
            chosen = inputs[0] if rows is None else inputs[0][rows]
            change = chosen @ pair.down.T @ pair.up.T * scales.view(-1, *(1,) * (chosen.dim() - 1))
            output = output + change if rows is None else output.index_add(0, rows, change)
        return output

    return add
