"""Writes pocket-image as a folder that `diffusers.FluxPipeline.from_pretrained` loads.

In: taught networks. Out: the folder, its weights as bfloat16 safetensors, and the weights' revision, which the
catalogue entry names and the engine checks at load. Next: the engine, `bench`.
"""

import json
import shutil
from pathlib import Path

from darkroom.model_runner.engine import revision
from darkroom.model_runner.pocket import networks


def write(nets: networks.Networks, directory: Path) -> str:
    """Replace the folder's contents by these networks and return their revision."""
    if directory.exists():
        shutil.rmtree(directory)
    learnt = (nets.transformer, nets.vae, nets.text_encoder, nets.text_encoder_2)
    for network in learnt:
        network.bfloat16()
    networks.pipeline(nets).save_pretrained(directory, safe_serialization=True)
    for network in learnt:
        network.float()
    for folder in ("text_encoder", "text_encoder_2"):
        _load_as_float32(directory / folder / "config.json")
    return revision.digest(directory)


def _load_as_float32(path: Path) -> None:
    """Make transformers, which loads weights as they are stored, agree with diffusers, which loads float32 unless asked."""
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
