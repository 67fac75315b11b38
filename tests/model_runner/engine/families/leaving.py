"""What must hold for every family that leaves its device for host memory.

In: a resident model, and what it makes. Out: nothing, or a failed assertion. The test file of each family names it as a test.
"""

import gc
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import diffusers
import torch
from torch import Tensor

from darkroom.model_runner.engine import embeddings, host_cache
from darkroom.model_runner.engine.families import Family


def and_returning(model: Family, use: Callable[[], Sequence[Tensor]]) -> None:
    """Have a model leave its device and return: it makes the same, and while it is away nothing of it is there.

    It leaves twice, since the CPU rounds differently at odd addresses, such as those of weights that are mapped from a file.
    """
    with torch.inference_mode():
        _leave_and_return(model)
        before = use()
        _leave_and_return(model)
        after = use()
    assert len(before) == len(after)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def _leave_and_return(model: Family) -> None:
    device = torch.device("cpu")
    kept = host_cache.HostCache(device=device, bytes_max=64 << 20, now_us=lambda: 0, block_bytes=1 << 18)
    before = [(tensor, tensor.clone(), tensor.stride()) for tensor in _held(model)]
    assert kept.keep("model", model, read_us=1, used_us=0, in_use=set())
    assert [tensor.shape for tensor in _held(model) if tensor.untyped_storage().nbytes()] == []
    assert kept.bring_back("model") is model
    for tensor, value, stride in before:
        assert torch.equal(tensor, value)
        assert tensor.stride() == stride


def _held(thing: Any) -> Iterator[Tensor]:
    """Yield every tensor that can be reached from a thing, but for those that others hold as well or the host always has."""
    others = (type, types.ModuleType, types.FunctionType, embeddings.Cache, diffusers.SchedulerMixin)
    seen, found = set(), [thing]
    while found:
        one = found.pop()
        if id(one) in seen or isinstance(one, others):
            continue
        seen.add(id(one))
        if isinstance(one, Tensor):
            if one.device.type != "meta":  # of weight norms that were never needed
                yield one
        else:
            found += gc.get_referents(one)
