"""The denoiser of tier HIGH: the same weights in fewer bits.

In: a denoiser as it was loaded. Out: a copy that is faster on this device, or nothing where no kind of copy is. On CUDA
that is fp8 by torchao (weights by row, activations as they come), from compute capability 8.9 on; on a CPU with bfloat16
arithmetic it is bfloat16 in place of float32 (measured with pocket-image: 1.2 times as fast for 2 rows, 1.9 times for 16,
where torch's dynamic int8 made 1.4 and 1.6). Next: `tiers` has the rows of tier HIGH run through the copy.
"""

import copy
import importlib.util
import itertools

import torch
from torch import nn

_FP8_SINCE = (8, 9)


def is_possible(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a denoiser on this device, in this dtype, has a faster copy."""
    if device.type == "cuda":
        return _has_fp8(device) and dtype in (torch.bfloat16, torch.float16)
    return dtype == torch.float32 and torch.cpu._is_avx512_bf16_supported()


def lighter(denoiser: nn.Module) -> nn.Module:
    """Return the copy, where `is_possible` says that there is one; it takes the copy's memory beside the original's."""
    made = copy.deepcopy(denoiser)
    if next(made.parameters()).device.type != "cuda":
        return _cast(made)
    quantization = importlib.import_module("torchao.quantization")  # an extra, for devices with fp8 arithmetic only

    made = _cast(made)  # torchao's fp8 products come out in it
    config = quantization.Float8DynamicActivationFloat8WeightConfig(granularity=quantization.PerRow())
    quantization.quantize_(made, config)
    return made


def _cast(made: nn.Module) -> nn.Module:
    """Cast to bfloat16 what is not to stay in float32: Wan's rotary angles, for one, would be too coarse."""
    kept = getattr(made, "_keep_in_fp32_modules", None) or ()
    for name, tensor in itertools.chain(made.named_parameters(), made.named_buffers()):
        if tensor.is_floating_point() and not any(part in name for part in kept):
            tensor.data = tensor.data.to(torch.bfloat16)
    return made


def _has_fp8(device: torch.device) -> bool:
    found = importlib.util.find_spec("torchao") is not None
    return found and torch.cuda.get_device_capability(device) >= _FP8_SINCE
