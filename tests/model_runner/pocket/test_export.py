"""The exported folder is what diffusers expects, small, in bfloat16, and named by its revision."""

from pathlib import Path

import diffusers
import safetensors
import torch

from darkroom.model_runner.engine import revision
from darkroom.model_runner.pocket import export, networks


def test_a_folder_is_written_that_diffusers_loads(fresh: networks.Networks, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    named = export.write(fresh, folder)
    assert named == revision.digest(folder)
    weights = list(folder.rglob("*.safetensors"))
    assert len(weights) == 4
    assert sum(path.stat().st_size for path in weights) <= 8_000_000
    for path in weights:
        with safetensors.safe_open(path, framework="pt") as kept:
            assert all(kept.get_slice(name).get_dtype() == "BF16" for name in kept.keys())  # noqa: SIM118
    loaded = diffusers.FluxPipeline.from_pretrained(folder)
    assert loaded.transformer.dtype == loaded.text_encoder.dtype == loaded.text_encoder_2.dtype == torch.float32
    assert torch.equal(loaded.transformer.x_embedder.weight, fresh.transformer.x_embedder.weight)
    prompt = "a red circle on a white background"
    assert loaded.tokenizer(prompt).input_ids == fresh.tokenizer(prompt).input_ids
    assert loaded.tokenizer_2(prompt).input_ids == fresh.tokenizer_2(prompt).input_ids


def test_writing_again_replaces_the_folder(fresh: networks.Networks, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    first = export.write(fresh, folder)
    (folder / "stale.safetensors").write_bytes(b"old")
    assert export.write(fresh, folder) == first
    assert not (folder / "stale.safetensors").exists()


def test_other_weights_have_another_revision(fresh: networks.Networks, tmp_path: Path) -> None:
    first = export.write(fresh, tmp_path / "model")
    with torch.no_grad():
        fresh.vae.decoder.conv_out.bias += 1
    assert export.write(fresh, tmp_path / "model") != first
