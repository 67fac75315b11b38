"""Files are read as PEFT writes them, or refused with the key at fault."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from darkroom.model_runner.engine import errors
from darkroom.model_runner.engine.adapters import pairs
from darkroom.model_runner.engine.job import AdapterUse
from tests.model_runner.engine.adapters import lora

LAYERS = pairs.layers(lora.Denoiser())


def read(use: AdapterUse, prefix: str = "transformer") -> pairs.Adapter:
    return pairs.read(use, LAYERS, prefix=prefix)


def test_what_a_lora_can_change() -> None:
    assert set(LAYERS) == set(lora.NAMES)


def test_a_file_becomes_pairs(tmp_path: Path) -> None:
    tensors = lora.pairs(1, rank=3)
    adapter = read(lora.save(tmp_path, "one", tensors))
    assert set(adapter) == set(lora.NAMES)
    assert torch.equal(adapter["conv"].down, tensors["transformer.conv.lora_A.weight"])
    assert torch.equal(adapter["conv"].up, tensors["transformer.conv.lora_B.weight"].flatten(1))


def test_each_layer_has_its_own_rank_and_alpha(tmp_path: Path) -> None:
    tensors = lora.pairs(1, rank=4) | {
        "transformer.first.lora_A.weight": torch.randn(2, 6),
        "transformer.first.lora_B.weight": torch.randn(8, 2),
        "transformer.first.alpha": torch.tensor(6.0),
    }
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 2, "transformer.r": 4})}
    adapter = read(lora.save(tmp_path, "one", tensors, metadata=metadata))
    torch.testing.assert_close(adapter["first"].up, tensors["transformer.first.lora_B.weight"] * 3)
    torch.testing.assert_close(adapter["block.second"].up, tensors["transformer.block.second.lora_B.weight"] / 2)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"transformer.third.lora_A.weight": torch.zeros(2, 6)}, "transformer.third.lora_A.weight"),
        ({"transformer.norm.lora_A.weight": torch.zeros(2, 8)}, "transformer.norm.lora_A.weight"),
        ({"transformer.grouped.lora_A.weight": torch.zeros(2, 3, 1, 1)}, "transformer.grouped.lora_A.weight"),
        ({"text_encoder.first.lora_A.weight": torch.zeros(2, 6)}, "text_encoder.first.lora_A.weight"),
        ({"unet.first.lora_A.weight": torch.zeros(2, 6)}, "unet.first.lora_A.weight"),
        ({"first.lora_A.weight": torch.zeros(2, 6)}, "first.lora_A.weight"),
        ({"lora_unet_first.lora_down.weight": torch.zeros(2, 6)}, "lora_unet_first.lora_down.weight"),
        ({"transformer.first.lora_magnitude_vector": torch.zeros(8)}, "transformer.first.lora_magnitude_vector"),
        ({"transformer.first.lora_A.weight": torch.zeros(2, 7)}, "transformer.first.lora_A.weight"),
        ({"transformer.first.lora_B.weight": torch.zeros(8, 3)}, "transformer.first.lora_B.weight"),
        ({"transformer.first.lora_A.weight": torch.zeros(0, 6)}, "transformer.first.lora_A.weight"),
        ({"transformer.first.lora_A.weight": torch.zeros(2)}, "transformer.first.lora_A.weight"),
        ({"transformer.conv.lora_A.weight": torch.zeros(2, 6, 1, 1)}, "transformer.conv.lora_A.weight"),
        ({"transformer.conv.lora_B.weight": torch.zeros(8, 2)}, "transformer.conv.lora_B.weight"),
        ({"transformer.first.lora_A.weight": torch.zeros(2, 6, dtype=torch.int8)}, "transformer.first.lora_A.weight"),
        ({"transformer.first.lora_A.weight": torch.full((2, 6), float("nan"))}, "transformer.first"),
        ({"transformer.first.alpha": torch.tensor(float("inf"))}, "transformer.first"),
        ({"transformer.first.alpha": torch.ones(2)}, "transformer.first.alpha"),
        ({"transformer.first.lora_B.weight": None}, "transformer.first.lora_B.weight"),
    ],
)
def test_the_key_at_fault_is_named(tmp_path: Path, changes: dict[str, Tensor | None], key: str) -> None:
    tensors = {name: tensor for name, tensor in (lora.pairs(1) | changes).items() if tensor is not None}
    with pytest.raises(errors.BadAdapter) as caught:
        read(lora.save(tmp_path, "one", tensors))
    assert f"'{key}'" in str(caught.value)


def test_a_text_encoder_s_change_is_refused_as_such(tmp_path: Path) -> None:
    with pytest.raises(errors.BadAdapter, match="changes a text encoder"):
        read(lora.save(tmp_path, "one", {"text_encoder_2.first.lora_A.weight": torch.zeros(2, 6)}), prefix="unet")


@pytest.mark.parametrize(
    "metadata", ["[]", "{", '{"transformer.lora_alpha": "much"}', '{"transformer.use_dora": true}']
)
def test_metadata_that_cannot_be_obeyed_is_refused(tmp_path: Path, metadata: str) -> None:
    with pytest.raises(errors.BadAdapter, match="metadata"):
        read(lora.save(tmp_path, "one", lora.pairs(1), metadata={"lora_adapter_metadata": metadata}))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a pickle"])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "one.safetensors"
    path.write_bytes(content)
    with pytest.raises(errors.BadAdapter, match="not a readable safetensors file"):
        read(AdapterUse(path=path, digest="one", scale=1.0))


def test_what_was_read_stays_whatever_becomes_of_the_file(tmp_path: Path) -> None:
    """A mapped file would hold its place on a full disk although it is deleted, and take the process along if it is cut."""
    use = lora.save(tmp_path, "one", lora.pairs(1))
    found, before = read(use), read(use)
    before = {name: pair.down.clone() for name, pair in before.items()}
    with use.path.open("r+b") as file:
        size_bytes = use.path.stat().st_size
        file.seek(size_bytes // 4)
        file.write(bytes(size_bytes - size_bytes // 4))
    assert all(torch.equal(found[name].down, down) for name, down in before.items())


def test_a_file_that_is_gone_is_not_the_adapters_fault(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as gone:
        read(AdapterUse(path=tmp_path / "one.safetensors", digest="one", scale=1.0))
    assert errors.translate(gone.value).fault == "runner"


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.BadAdapter, match="no tensors"):
        read(lora.save(tmp_path, "one", {}))
