"""The recipe of pocket-image as a command: `python -m darkroom.model_runner.pocket.train --out DIRECTORY`.

In: a seed. Out: the model's folder. Draws its own pictures, teaches the autoencoder, then the transformer with its text
encoders, and exports the averaged weights; up to 90 minutes on 2 cores. What is finished is kept under --work, so that
a stopped run goes on. Next: `bench` judges the folder.
"""

import argparse
import ctypes
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click
import diffusers
import torch

from darkroom.model_runner.pocket import autoencoder, curriculum, export, flow, networks, parts


class Effort(NamedTuple):
    """How long each part is taught."""

    vae_steps: int
    decoder_steps: int
    stages: tuple[curriculum.Stage, ...]


FULL = Effort(1_200, 1_000, curriculum.STAGES)
QUICK = Effort(2, 2, (curriculum.STAGES[0]._replace(until=2, scenes=8),))
"""Enough to see that everything works."""

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Names of glibc's malloc.h for `mallopt`."""


def progress(label: str, *, every: int = 50) -> Callable[[int, int, float], None]:
    """A reporter that prints label, step, mean value since the last line, and the time left."""
    started, values, first = time.monotonic(), list[float](), list[int]()

    def report(step: int, steps: int, value: float) -> None:
        first.append(step) if not first else None
        values.append(value)
        if (step + 1) % every == 0 or step + 1 == steps:
            left_s = (time.monotonic() - started) / (step + 1 - first[0]) * (steps - step - 1)
            click.echo(f"{label} {step + 1}/{steps}  {sum(values) / len(values):.4f}  {left_s / 60:.1f} min left")
            values.clear()

    return report


def main() -> None:
    """Train and export."""
    parser = argparse.ArgumentParser(description="Train pocket-image from scratch on two CPU cores.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--work", type=Path, default=Path("build/pocket-image"), help="folder for unfinished work")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few steps of everything: the model will be useless")
    arguments = parser.parse_args()
    torch.set_num_threads(parts.PARTS)
    _keep_memory()
    arguments.work.mkdir(parents=True, exist_ok=True)
    click.echo(
        f"revision {train(arguments.out, arguments.work, QUICK if arguments.quick else FULL, seed=arguments.seed)}"
    )


def _keep_memory() -> None:
    """Tell glibc to keep freed memory instead of returning it: half of the training's time was page faults."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def train(out: Path, work: Path, effort: Effort, *, seed: int) -> str:
    """Run the recipe and return the revision of the weights that it wrote."""
    nets = networks.build(seed=seed)
    nets = nets._replace(vae=_autoencoder(nets.vae, work, effort, seed=seed))
    checkpoint = work / "flow.safetensors"
    flow.learn(nets, effort.stages, seed=seed, checkpoint=checkpoint, reporter=progress)
    return export.write(nets, out)


def _autoencoder(vae: diffusers.AutoencoderKL, work: Path, effort: Effort, *, seed: int) -> diffusers.AutoencoderKL:
    """The taught autoencoder: each of its two lessons from the work folder if it is there."""
    rough, sharp = work / "vae", work / "vae-sharp"
    if not rough.exists():
        autoencoder.learn(vae, steps=effort.vae_steps, seed=seed, report=progress("autoencoder"))
        vae.save_pretrained(rough)
    if not sharp.exists():
        vae = diffusers.AutoencoderKL.from_pretrained(rough)
        autoencoder.sharpen(vae, steps=effort.decoder_steps, seed=seed + 2, report=progress("decoder"))
        vae.save_pretrained(sharp)
    return diffusers.AutoencoderKL.from_pretrained(sharp).eval()


if __name__ == "__main__":
    main()
