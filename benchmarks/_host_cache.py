"""How fast does a model leave the device for host memory, and return, and is every bit of it back?

In: a resident family. Out: the seconds of both ways, the first time, when host memory is taken and pinned, and again; what it left on
the device while it was away; and whether the bytes of its weights are the same. Next: `_gpu_models` puts them into its table.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from darkroom.model_runner.engine import host_cache
from darkroom.model_runner.engine.families import Family

LEFT_SHARE_MAX = 0.01  # what other parts of torch may hold meanwhile, such as libraries' workspaces


class Trip(NamedTuple):
    """A model's way off the device and back."""

    size_bytes: int
    """Of its weights."""
    left_bytes: int
    """Of them, still on the device while it was away; 0 on a CPU, which has no other memory."""
    first_leave_s: float
    leave_s: float
    return_s: float
    is_same: bool


def measure(family: Family, device: torch.device) -> Trip:
    """Have a family leave and return twice."""
    weights = [tensor for part in family.release() if isinstance(part, torch.nn.Module) for tensor in part.parameters()]
    size_bytes, before = sum(weight.nbytes for weight in weights), [_sum(weight) for weight in weights]
    cache = host_cache.HostCache(device=device, bytes_max=2 * size_bytes + host_cache.BLOCK_BYTES, now_us=lambda: 0)
    held_bytes = _held_bytes(device)
    first_leave_s = _seconds(lambda: _keep(cache, family))
    left_bytes = size_bytes - (held_bytes - _held_bytes(device)) if device.type == "cuda" else 0
    cache.bring_back("model")
    leave_s = _seconds(lambda: _keep(cache, family))
    return_s = _seconds(lambda: cache.bring_back("model"))
    is_same = before == [_sum(weight) for weight in weights]
    return Trip(size_bytes, max(left_bytes, 0), first_leave_s, leave_s, return_s, is_same)


def _keep(cache: host_cache.HostCache, family: Family) -> None:
    if not cache.keep("model", family, read_us=1, used_us=0, in_use=set()):
        raise RuntimeError("host memory did not take the model")


def _sum(weight: torch.Tensor) -> int:
    return int(weight.detach().contiguous().reshape(-1).view(torch.uint8).sum(dtype=torch.int64))


def _held_bytes(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _seconds(do: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    do()  # waits for the device by itself
    return time.perf_counter() - started_s
