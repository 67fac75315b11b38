"""Families leave for host memory and return with every bit as it was; what does not fit is dropped."""

import contextlib
import logging
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from darkroom.model_runner.engine import adapters, host_cache
from tests.model_runner.engine import counting
from tests.model_runner.engine.adapters import lora

BLOCK_BYTES = 1000  # no multiple of any storage here, so that those lie across blocks


class Odd(nn.Module):
    """Whatever a module's tensors may be to each other, and in memory."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.denoiser = lora.Denoiser(64).to(memory_format=torch.channels_last)
        self.coarse = nn.Linear(30, 30, dtype=torch.bfloat16)
        self.tied = nn.Linear(30, 30)
        self.tied.weight = nn.Parameter(torch.randn(60, 30)[::2])
        self.tied_too = nn.Linear(30, 30, bias=False)
        self.tied_too.weight = self.tied.weight
        self.normed = parametrizations.weight_norm(nn.Linear(4, 4))
        self.register_buffer("seen", torch.arange(300))
        self.tail = self.seen[100:].view(2, 100)  # type: ignore[index]
        self.angles = [torch.polar(torch.ones(40), torch.rand(40)), {"deep": torch.rand(3)}]
        self.nothing = torch.zeros(0, 7)


class Small(counting.Counting):
    """A family of one odd module."""

    def __init__(self) -> None:
        super().__init__()
        self.module = Odd()
        self.bank = adapters.Bank(self.module.denoiser, resident_max=3)

    def release(self) -> Sequence[object]:
        return [self.module, "a tokenizer", None]

    @property
    def tensors(self) -> dict[str, Tensor]:
        module = self.module
        plain = {"tail": module.tail, "angles": module.angles[0], "deep": module.angles[1]["deep"]}  # type: ignore[index]
        return dict(module.named_parameters()) | dict(module.named_buffers()) | plain  # type: ignore[return-value]


def cache(*, blocks: int = 100, clock: Any = lambda: 0, block_bytes: int = BLOCK_BYTES) -> host_cache.HostCache:
    return host_cache.HostCache(
        device=torch.device("cpu"), bytes_max=blocks * block_bytes, now_us=clock, block_bytes=block_bytes
    )


def keep(kept: host_cache.HostCache, name: str, family: Any, **changes: Any) -> bool:
    return kept.keep(name, family, **({"read_us": 10, "used_us": 0, "in_use": set()} | changes))


def blocks_of(family: Small) -> int:
    kept = cache()
    assert keep(kept, "a", family)
    count = kept.size_bytes // BLOCK_BYTES
    kept.bring_back("a")
    return count


@pytest.mark.parametrize("inference", [False, True])
def test_every_bit_returns_to_where_it_was(inference: bool) -> None:
    with torch.inference_mode(inference):
        family, kept = Small(), cache()
        before = {name: (tensor.clone(), tensor.stride(), tensor.dtype) for name, tensor in family.tensors.items()}
        held = family.tensors
        assert keep(kept, "a", family)
        assert "a" in kept
        assert all(tensor.untyped_storage().nbytes() == 0 for tensor in held.values())
        assert kept.bring_back("a") is family
        assert "a" not in kept
        for name, tensor in family.tensors.items():
            assert tensor is held[name]
            assert (tensor.stride(), tensor.dtype) == before[name][1:], name
            assert torch.equal(tensor, before[name][0]), name
        assert family.module.denoiser.conv.weight.is_contiguous(memory_format=torch.channels_last)
        assert family.module.tied_too.weight is family.module.tied.weight
        assert family.module.tail.data_ptr() == family.module.seen[100:].data_ptr()  # type: ignore[index]


def test_what_returns_shares_nothing_with_what_left() -> None:
    family, kept = Small(), cache()
    old = family.module.tied.weight.detach()
    before = old.clone()
    assert keep(kept, "a", family)
    old.fill_(7)
    kept.bring_back("a")
    assert torch.equal(family.module.tied.weight, before)


@torch.inference_mode()
def test_loras_leave_and_return_with_their_model(tmp_path: Path) -> None:
    family, kept = Small(), cache()
    use = lora.save(tmp_path, "a", lora.pairs(1, width=64))
    x = torch.randn(64, 6, 4, 4)

    def run() -> Tensor:
        with family.bank.applied([[use]] * len(x)):
            return family.module.denoiser(x)

    before = run()
    assert family.bank.merged_bytes > 0
    pair = next(iter(family.bank.resident[use.digest].values()))
    assert keep(kept, "a", family)
    assert family.bank.merged_bytes == 0
    assert pair.up.untyped_storage().nbytes() == 0
    use.path.unlink()  # nobody reads it again
    kept.bring_back("a")
    assert torch.equal(run(), before)


def test_takes_no_more_than_it_may() -> None:
    family = Small()
    count = blocks_of(family)
    assert not keep(cache(blocks=count - 1), "a", family)
    kept = cache(blocks=count)
    assert keep(kept, "a", family)
    assert kept.size_bytes == count * BLOCK_BYTES
    kept.bring_back("a")
    assert kept.size_bytes == 0
    assert not keep(cache(blocks=0), "a", counting.Counting())


def test_what_does_not_fit_stays_as_it_is() -> None:
    family = Small()
    before = {name: tensor.data_ptr() for name, tensor in family.tensors.items()}
    assert not keep(cache(blocks=1), "a", family)
    assert {name: tensor.data_ptr() for name, tensor in family.tensors.items()} == before


def test_those_go_for_another_whose_loss_costs_least() -> None:
    clock = counting.Clock()
    count = blocks_of(Small())
    kept = cache(blocks=2 * count, clock=clock)
    clock.work(100)
    assert keep(kept, "dear", Small(), read_us=1000)
    assert keep(kept, "cheap", Small(), read_us=10)
    assert not keep(kept, "cheaper", Small(), read_us=5)
    assert keep(kept, "recent", Small(), read_us=10, used_us=90)
    assert [name for name in ("dear", "cheap", "recent") if name in kept] == ["dear", "recent"]


def test_what_is_in_use_is_kept_before_others_and_does_not_go_for_them() -> None:
    kept = cache(blocks=blocks_of(Small()))
    assert keep(kept, "dear", Small(), read_us=1000)
    assert keep(kept, "used", Small(), read_us=1, in_use={"used"})
    assert "dear" not in kept
    assert not keep(kept, "dear", Small(), read_us=1000, in_use={"used"})


def test_a_host_without_memory_keeps_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert not keep(cache(blocks=1, block_bytes=1 << 60), "a", Small())
    assert "the host gave no" in caplog.text


def test_a_device_without_memory_leaves_it_kept() -> None:
    family = Small()
    family.module.large = nn.Linear(1 << 14, 1 << 12)  # 256 MiB
    family.module.large.weight.data[-1, -1] = 7
    kept = cache(block_bytes=host_cache.BLOCK_BYTES)
    assert keep(kept, "a", family)
    with memory_left(64 << 20), pytest.raises(RuntimeError, match="can't allocate memory"):
        kept.bring_back("a")
    assert kept.bring_back("a") is family
    assert family.module.large.weight[-1, -1] == 7


@contextlib.contextmanager
def memory_left(size_bytes: int) -> Iterator[None]:
    """Within, this process gets no more memory than so much."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_tensors_that_are_more_than_their_bytes_are_not_taken(caplog: pytest.LogCaptureFixture) -> None:
    family = Small()
    family.module.angles.append(torch.eye(3).to_sparse())
    with caplog.at_level(logging.INFO):
        assert not keep(cache(), "a", family)
    assert "not kept in host memory" in caplog.text
    family.module.angles[-1] = torch.polar(torch.ones(4), torch.rand(4)).conj()
    assert not keep(cache(), "a", family)
