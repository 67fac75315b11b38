"""LoRAs applied row by row equal the same changes merged into the weights."""

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from darkroom.model_runner.engine import adapters, errors
from darkroom.model_runner.engine.job import AdapterUse


class Denoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, 8)
        self.block = nn.ModuleDict({"second": nn.Linear(8, 5)})
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block["second"](self.norm(torch.tanh(self.first(x))))
        return y


def pairs(seed: int, rank: int = 2) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {
        "transformer.first.lora_A.weight": torch.randn(rank, 6),
        "transformer.first.lora_B.weight": torch.randn(8, rank),
        "transformer.block.second.lora_A.weight": torch.randn(rank, 8),
        "transformer.block.second.lora_B.weight": torch.randn(5, rank),
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., AdapterUse]:
    def write(
        name: str, tensors: Mapping[str, Tensor], scale: float = 1.0, metadata: dict[str, str] | None = None
    ) -> AdapterUse:
        path = tmp_path / f"{name}.safetensors"
        safetensors.torch.save_file(dict(tensors), path, metadata)
        return AdapterUse(path=path, digest=name, scale=scale)

    return write


def merged(denoiser: Denoiser, *changes: tuple[dict[str, Tensor], float]) -> Denoiser:
    copied = copy.deepcopy(denoiser)
    for tensors, strength in changes:
        for name, linear in (("first", copied.first), ("block.second", copied.block["second"])):
            down, up = tensors[f"transformer.{name}.lora_A.weight"], tensors[f"transformer.{name}.lora_B.weight"]
            linear.weight.data += strength * up @ down
    return copied


def bank(denoiser: nn.Module, resident_max: int = 8) -> adapters.Bank:
    return adapters.Bank(denoiser, resident_max=resident_max)


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(4, 6), (4, 3, 6)])
def test_a_batch_mixes_adapters_scales_and_none(write: Any, shape: tuple[int, ...]) -> None:
    denoiser = Denoiser()
    one, other = pairs(1), pairs(2, rank=4)
    strong, weak, second = write("one", one, 0.7), write("one", one, -0.2), write("other", other, 1.5)
    x = torch.randn(shape)
    with bank(denoiser).applied([[strong], [], [weak, second], [second]]):
        ours = denoiser(x)
    expected = [
        merged(denoiser, (one, 0.7))(x[0]),
        denoiser(x[1]),
        merged(denoiser, (one, -0.2), (other, 1.5))(x[2]),
        merged(denoiser, (other, 1.5))(x[3]),
    ]
    torch.testing.assert_close(ours, torch.stack(expected))
    assert torch.equal(ours[1], denoiser(x)[1])


@torch.inference_mode()
def test_the_denoiser_is_as_before_afterwards_even_if_a_forward_fails(write: Any) -> None:
    denoiser, x = Denoiser(), torch.randn(2, 6)
    before, use = denoiser(x), write("one", pairs(1))
    with pytest.raises(RuntimeError, match="shapes"), bank(denoiser).applied([[use], [use]]):
        denoiser(torch.cat([denoiser(x), before, before], dim=1))
    assert torch.equal(denoiser(x), before)


@torch.inference_mode()
@pytest.mark.parametrize("source", ["tensor", "metadata"])
def test_alpha_scales_by_rank(write: Any, source: str) -> None:
    denoiser, tensors, x = Denoiser(), pairs(1, rank=4), torch.randn(1, 6)
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 2, "transformer.r": 4})}
    alphas = {f"transformer.{name}.alpha": torch.tensor(2.0) for name in ("first", "block.second")}
    use = write("one", tensors | alphas) if source == "tensor" else write("one", tensors, metadata=metadata)
    expected = merged(denoiser, (tensors, 0.5))(x)
    with bank(denoiser).applied([[use]]):
        torch.testing.assert_close(denoiser(x), expected)


def test_the_longest_unused_leaves_and_comes_back(write: Any) -> None:
    keeper = bank(Denoiser(), resident_max=2)
    uses = {name: write(name, pairs(1)) for name in "abc"}
    for name in "abac":
        keeper.get(uses[name])
    assert keeper.digests == ("a", "c")
    assert set(keeper.get(uses["b"])) == {"first", "block.second"}
    assert keeper.digests == ("c", "b")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"transformer.third.lora_A.weight": torch.zeros(2, 6)}, "transformer.third.lora_A.weight"),
        ({"transformer.norm.lora_A.weight": torch.zeros(2, 8)}, "transformer.norm.lora_A.weight"),
        ({"text_encoder.first.lora_A.weight": torch.zeros(2, 6)}, "text_encoder.first.lora_A.weight"),
        ({"transformer.first.lora_magnitude_vector": torch.zeros(8)}, "transformer.first.lora_magnitude_vector"),
        ({"transformer.first.lora_A.weight": torch.zeros(2, 7)}, "transformer.first.lora_A.weight"),
        ({"transformer.first.lora_B.weight": torch.zeros(8, 3)}, "transformer.first.lora_B.weight"),
        ({"transformer.first.lora_A.weight": torch.zeros(0, 6)}, "transformer.first.lora_A.weight"),
        ({"transformer.first.lora_A.weight": torch.zeros(2)}, "transformer.first.lora_A.weight"),
        ({"transformer.first.lora_A.weight": torch.zeros(2, 6, dtype=torch.int8)}, "transformer.first.lora_A.weight"),
        ({"transformer.first.lora_A.weight": torch.full((2, 6), float("nan"))}, "transformer.first"),
        ({"transformer.first.alpha": torch.tensor(float("inf"))}, "transformer.first"),
        ({"transformer.first.alpha": torch.ones(2)}, "transformer.first.alpha"),
        ({"transformer.first.lora_B.weight": None}, "transformer.first.lora_B.weight"),
    ],
)
def test_the_key_at_fault_is_named(write: Any, changes: dict[str, Tensor | None], key: str) -> None:
    tensors = {name: tensor for name, tensor in (pairs(1) | changes).items() if tensor is not None}
    with pytest.raises(errors.BadAdapter) as caught:
        bank(Denoiser()).get(write("one", tensors))
    assert f"'{key}'" in str(caught.value)


@pytest.mark.parametrize(
    "metadata", ["[]", "{", '{"transformer.lora_alpha": "much"}', '{"transformer.use_dora": true}']
)
def test_metadata_that_cannot_be_obeyed_is_refused(write: Any, metadata: str) -> None:
    with pytest.raises(errors.BadAdapter, match="metadata"):
        bank(Denoiser()).get(write("one", pairs(1), metadata={"lora_adapter_metadata": metadata}))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a pickle", None])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "one.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(errors.BadAdapter, match="not a readable safetensors file"):
        bank(Denoiser()).get(AdapterUse(path=path, digest="one", scale=1.0))


def test_a_file_without_tensors_is_refused(write: Any) -> None:
    with pytest.raises(errors.BadAdapter, match="no tensors"):
        bank(Denoiser()).get(write("one", {}))
