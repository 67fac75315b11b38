"""The recipe runs as a command, shows how long it will take, and goes on with what is finished."""

import os
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest

from darkroom.model_runner.pocket import train


def recipe(tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Train for a few steps in a process of its own, as `make pocket-image` does."""
    short = ["--quick"]
    folders = ["--out", str(tmp_path / "model"), "--work", str(tmp_path / "work")]
    command = [sys.executable, "-m", "darkroom.model_runner.pocket.train", *folders, *short]
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, env=os.environ | paths, capture_output=True, text=True, check=False, timeout=250)


def test_the_recipe_writes_a_model_and_goes_on_from_finished_work(tmp_path: Path) -> None:
    first = recipe(tmp_path)
    assert first.returncode == 0, first.stderr
    assert "autoencoder 2/2" in first.stdout
    assert "transformer 2/2" in first.stdout
    assert diffusers.FluxPipeline.from_pretrained(tmp_path / "model").transformer.config.guidance_embeds is False
    taught = (tmp_path / "model" / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    again = recipe(tmp_path)
    assert again.returncode == 0, again.stderr
    assert "autoencoder" not in again.stdout
    assert (tmp_path / "model" / "vae" / "diffusion_pytorch_model.safetensors").read_bytes() == taught


def test_progress_tells_the_mean_and_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    report = train.progress("lesson", every=2)
    for step, value in enumerate([1.0, 3.0, 5.0]):
        report(step, 3, value)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("lesson 2/3  2.0000  ")
    assert lines[1].startswith("lesson 3/3  5.0000  0.0 min left")
