"""Models that have left the device, whose weights are kept in host memory: faster to have again than from their files.

In: a family that leaves. Out: the same family, when it is wanted again, with every bit where it was. What moves is whole
storages, byte for byte, so ties, views and memory formats survive; meanwhile the family's tensors are empty, so whoever
holds one of them holds no device memory. When a family needs the room of others, those go for good that nobody uses and
whose loss costs least: the time to load them from their files, divided by the time since they were used. On CUDA the
memory is pinned: the device reads it by itself, and it cannot be swapped out. Next: `residency` puts models on the device.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import NamedTuple

import torch
from torch import Tensor, nn

from darkroom.model_runner.engine.families import Family

_log = logging.getLogger(__name__)

BLOCK_BYTES = 64 << 20
"""Host memory is taken in blocks of one size: torch rounds each piece of pinned memory up to a power of two, and keeps what is
given back for the next piece that is as large."""


class _Place(NamedTuple):
    """Where a tensor's elements lie."""

    tensor: Tensor
    storage: int
    offset: int
    size: torch.Size
    stride: tuple[int, ...]


class _Kept(NamedTuple):
    """A family without its bytes, and its bytes."""

    family: Family
    places: Sequence[_Place]
    storages_bytes: Sequence[int]
    """Sizes of the storages, which follow each other in the blocks."""
    blocks: Sequence[Tensor]
    read_us: int
    used_us: int


class HostCache:
    """The families of one accelerator that are not on it; belongs to the engine's thread."""

    def __init__(
        self, *, device: torch.device, bytes_max: int, now_us: Callable[[], int], block_bytes: int = BLOCK_BYTES
    ) -> None:
        """Take at most `bytes_max` of host memory, each block when it is first needed; 0 keeps nothing."""
        self._device = device
        self._blocks_max = bytes_max // block_bytes
        self._now_us = now_us
        self._block_bytes = block_bytes
        self._kept: dict[str, _Kept] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._kept

    @property
    def size_bytes(self) -> int:
        """Host memory that is taken now."""
        return self._block_bytes * sum(len(kept.blocks) for kept in self._kept.values())

    def keep(self, name: str, family: Family, *, read_us: int, used_us: int, in_use: Set[str]) -> bool:
        """Take a family off the device if there is room for it; where not, it stays as it is, to be dropped (False).

        `read_us` is how long it took to load from its files; models `in_use` do not go for it.
        """
        if not self._blocks_max:
            return False
        family.bank.release()
        tensors = [one for one in _tensors((family.release(), family.bank.resident), set()) if self._is_there(one)]
        if not all(map(_is_plain, tensors)):
            _log.info("model %s is not kept in host memory: some of its tensors are more than their bytes", name)
            return False
        storages, places = _layout(tensors)
        worth = math.inf if name in in_use else self._regret(read_us, used_us)
        count = math.ceil(sum(len(storage) for storage in storages) / self._block_bytes)
        blocks = self._blocks(count) if self._make_room(count, worth, in_use) else None
        if blocks is None:
            return False
        for part, here in self._parts(storages, blocks):
            here.copy_(part, non_blocking=True)
        self._synchronize()
        for tensor, *_ in places:
            tensor.data = tensor.data.new_empty(0)
        sizes = [len(storage) for storage in storages]
        self._kept[name] = _Kept(family, places, sizes, blocks, read_us, used_us)
        return True

    def bring_back(self, name: str) -> Family:
        """Put a family that is kept back on the device; if that has no memory for it, it is kept still."""
        kept = self._kept[name]
        storages = [torch.empty(size, dtype=torch.uint8, device=self._device) for size in kept.storages_bytes]
        for part, here in self._parts(storages, kept.blocks):
            part.copy_(here, non_blocking=True)
        self._synchronize()
        for tensor, storage, offset, size, stride in kept.places:
            tensor.data = tensor.data.new_empty(0).set_(storages[storage].untyped_storage(), offset, size, stride)
        del self._kept[name]
        return kept.family

    def _is_there(self, tensor: Tensor) -> bool:
        return tensor.device.type == self._device.type

    def _regret(self, read_us: int, used_us: int) -> float:
        return read_us / max(self._now_us() - used_us, 1)

    def _make_room(self, count: int, worth: float, in_use: Set[str]) -> bool:
        """Let those go whose loss costs less than `worth` if that makes room for so many blocks; whether there is."""
        regrets = {other: self._regret(kept.read_us, kept.used_us) for other, kept in self._kept.items()}
        free = self._blocks_max - sum(len(kept.blocks) for kept in self._kept.values())
        leaving = []
        for other in sorted(regrets.keys() - in_use, key=regrets.__getitem__):
            if free >= count or regrets[other] > worth:
                break
            leaving.append(other)
            free += len(self._kept[other].blocks)
        if free < count:
            return False
        for other in leaving:
            del self._kept[other]
        return True

    def _blocks(self, count: int) -> list[Tensor] | None:
        pinned = self._device.type == "cuda"
        try:
            return [torch.empty(self._block_bytes, dtype=torch.uint8, pin_memory=pinned) for _ in range(count)]
        except RuntimeError as error:  # torch has no kind of its own for a host without memory
            _log.warning("the host gave no %d bytes for weights: %s", count * self._block_bytes, error)
            return None

    def _parts(self, storages: Sequence[Tensor], blocks: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the parts of storages that lie in one block, each with its place there."""
        start = 0
        for storage in storages:
            done = 0
            while done < len(storage):
                block, offset = divmod(start + done, self._block_bytes)
                count = min(len(storage) - done, self._block_bytes - offset)
                yield storage[done : done + count], blocks[block][offset : offset + count]
                done += count
            start += done

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _tensors(thing: object, seen: set[int]) -> Iterator[Tensor]:
    """Yield each tensor of modules once: parameters, buffers, and those that are plain attributes, as in some embeddings."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, nn.Module | Mapping | list | tuple):
        held = vars(thing) if isinstance(thing, nn.Module) else thing
        for one in held.values() if isinstance(held, Mapping) else held:
            yield from _tensors(one, seen)


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is its storage and where it lies there; those of quantization libraries are more than that."""
    is_known = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided
    return is_known and not (tensor.is_conj() or tensor.is_neg())


def _layout(tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[_Place]]:
    """Return the storages of tensors as bytes, each once, and where in them each tensor lies."""
    storages: list[Tensor] = []
    known: dict[tuple[int, int], int] = {}
    places = []
    for tensor in tensors:
        storage = tensor.untyped_storage()
        key = (storage.data_ptr(), storage.nbytes())
        if key not in known:
            known[key] = len(storages)
            storages.append(torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage))
        places.append(_Place(tensor, known[key], int(tensor.storage_offset()), tensor.size(), tensor.stride()))
    return storages, places
