"""LoRA files, read and checked against the layers that they change.

In: a safetensors file with diffusers' (PEFT) names, `<prefix>.<module>.lora_A.weight`, `….lora_B.weight` and perhaps
`<prefix>.<module>.alpha`, where the prefix is `transformer` or `unet`. Out: low-rank pairs on the device. Next: `bank` keeps
them.
"""

import collections
import json
import re
from collections.abc import Mapping

import safetensors
import torch
from torch import Tensor, nn

from darkroom.model_runner.engine import errors
from darkroom.model_runner.engine.adapters.low_rank import Layer, Pair
from darkroom.model_runner.engine.job import AdapterUse

Adapter = Mapping[str, Pair]
"""By name of the layer inside the denoiser."""

_PART = re.compile(r"(?P<module>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|alpha)")
_UNSUPPORTED = ("use_dora", "use_rslora", "alpha_pattern", "lora_bias")


def layers(denoiser: nn.Module) -> dict[str, Layer]:
    """Return what a LoRA can change: linear layers and convolutions over pictures, by name."""
    return {
        name: module
        for name, module in denoiser.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    }


def read(use: AdapterUse, changed: Mapping[str, Layer], *, prefix: str) -> Adapter:
    """Read and check one file against the layers it changes; BadAdapter names the key at fault.

    OSError if the file cannot be read here, which is not the adapter's fault.
    """
    try:
        with safetensors.safe_open(use.path, framework="pt") as file:
            alpha = _metadata_alpha(file.metadata() or {}, prefix)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except safetensors.SafetensorError as error:
        raise errors.BadAdapter(f"adapter {use.digest} is not a readable safetensors file: {error}") from error
    modules = _by_module(tensors, changed, prefix)
    if not modules:
        raise errors.BadAdapter(f"adapter {use.digest} holds no tensors")
    return {module: _pair(f"{prefix}.{module}", parts, changed[module], alpha) for module, parts in modules.items()}


def _by_module(
    tensors: Mapping[str, Tensor], changed: Mapping[str, Layer], prefix: str
) -> dict[str, dict[str, Tensor]]:
    modules: dict[str, dict[str, Tensor]] = collections.defaultdict(dict)
    for key, tensor in tensors.items():
        if key.startswith("text_encoder"):
            raise errors.BadAdapter(f"adapter key {key!r} changes a text encoder; only {prefix}.… can be changed")
        match = _PART.fullmatch(key.removeprefix(f"{prefix}."))
        if match is None or not key.startswith(f"{prefix}."):
            raise errors.BadAdapter(
                f"adapter key {key!r} is not {prefix}.<module>.lora_A.weight, .lora_B.weight or .alpha"
            )
        if match["module"] not in changed:
            raise errors.BadAdapter(f"adapter key {key!r} names no linear layer or convolution of this model")
        modules[match["module"]][match["part"]] = tensor
    return modules


def _pair(name: str, parts: Mapping[str, Tensor], layer: Layer, alpha: float | None) -> Pair:
    for part in ("lora_A.weight", "lora_B.weight"):
        if part not in parts:
            raise errors.BadAdapter(f"adapter key '{name}.{part}' is missing")
    down, up = parts["lora_A.weight"], parts["lora_B.weight"]
    weight, rank = layer.weight, down.shape[0]
    needed = {
        "lora_A.weight": (rank, *weight.shape[1:]),
        "lora_B.weight": (len(weight), rank, *(1,) * (weight.dim() - 2)),
    }
    for part, shape in needed.items():
        if tuple(parts[part].shape) != shape or not rank or not parts[part].is_floating_point():
            found = f"{tuple(parts[part].shape)} {parts[part].dtype}"
            raise errors.BadAdapter(f"adapter key '{name}.{part}' is {found}, but the model needs {shape}")
    if "alpha" in parts:
        if parts["alpha"].numel() != 1:
            raise errors.BadAdapter(f"adapter key '{name}.alpha' is not one number")
        alpha = parts["alpha"].item()
    strength = 1.0 if alpha is None else alpha / rank
    if not (torch.isfinite(down).all() and torch.isfinite(up * strength).all()):
        raise errors.BadAdapter(f"adapter module '{name}' holds NaN or infinity")
    scaled = up.flatten(1).float() * strength
    kept = down.to(weight.device, weight.dtype, copy=True)  # it lies in the file, which may go or change
    return Pair(kept, scaled.to(weight.device, weight.dtype))


def _metadata_alpha(metadata: Mapping[str, str], prefix: str) -> float | None:
    """Return the alpha that diffusers wrote beside the tensors, if any; refuse variants of other arithmetic."""
    try:
        config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        for name in _UNSUPPORTED:
            if config.get(f"{prefix}.{name}"):
                raise errors.BadAdapter(f"adapter metadata asks for {name}, which is not supported")
        alpha = config.get(f"{prefix}.lora_alpha")
        return None if alpha is None else float(alpha)
    except (ValueError, TypeError, AttributeError) as error:
        raise errors.BadAdapter("adapter metadata 'lora_adapter_metadata' is not what diffusers writes") from error
