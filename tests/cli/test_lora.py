import hashlib
from pathlib import Path

import pytest

from tests.cli.conftest import Darkroom
from tests.lora_store import adapters

GOOD = adapters.good(seed=0.25)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "watercolour.safetensors"
    path.write_bytes(GOOD)
    return path


def test_an_adapter_is_pushed_listed_shown_pulled_and_deleted(darkroom: Darkroom, file: Path, tmp_path: Path) -> None:
    said = darkroom("lora", "push", str(file), "--base-model", "pocket-image")
    assert said.code == 0
    adapter_id = said.out.strip()
    assert f"--lora {adapter_id}" in said.err
    assert darkroom("lora", "push", str(file), "--base-model", "pocket-image").out == said.out

    listed = [line.split()[:4] for line in darkroom("lora", "list").out.splitlines()]
    assert [adapter_id, "watercolour", "pocket-image", "2"] in listed
    digest = hashlib.sha256(GOOD).hexdigest()
    assert f"sha256 {digest}" in darkroom("lora", "show", adapter_id).out

    file.unlink()
    assert darkroom("lora", "pull", adapter_id).out == "watercolour.safetensors\n"
    assert file.read_bytes() == GOOD
    assert darkroom("lora", "pull", adapter_id, "--out", "new/copy.bin", "--json").json["path"] == str(
        tmp_path / "new" / "copy.bin"
    )
    assert (tmp_path / "new" / "copy.bin").read_bytes() == GOOD

    assert darkroom("lora", "delete", adapter_id).out == f"deleted {adapter_id}\n"
    said = darkroom("lora", "show", adapter_id)
    assert said.code == 1
    assert "`darkroom lora list` names them" in said.err


def test_json(darkroom: Darkroom, tmp_path: Path) -> None:
    (tmp_path / "ink.safetensors").write_bytes(adapters.good(rank=3))
    words = ("lora", "push", "ink.safetensors", "--base-model", "pocket-image", "--name", "pen-and-ink", "--json")
    lora = darkroom(*words).json["lora"]
    assert (lora["name"], lora["rank"]) == ("pen-and-ink", 3)
    assert lora in darkroom("lora", "list", "--json").json["loras"]
    assert darkroom("lora", "show", lora["adapter_id"], "--json").json == lora
    assert darkroom("lora", "delete", lora["adapter_id"], "--json").json == {"deleted": lora["adapter_id"]}


def test_what_is_no_adapter_is_refused(darkroom: Darkroom, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"\x89PNG" + bytes(100))
    said = darkroom("lora", "push", "cat.png", "--base-model", "pocket-image")
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("darkroom: ")
    assert darkroom("lora", "push", "nowhere.safetensors", "--base-model", "pocket-image").code == 2
    assert darkroom("lora", "push", "cat.png").code == 2
