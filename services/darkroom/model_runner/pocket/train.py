"""The recipe of pocket-image as a command: `python -m darkroom.model_runner.pocket.train --out DIRECTORY`.

In: a seed. Out: the model's folder. Draws its own pictures, teaches the autoencoder, then the transformer with its text
encoders, and exports the averaged weights; about 70 minutes on 2 cores. What is finished is kept under --work, so a stopped run goes on.
Next: `bench` judges the folder.
"""

import argparse
import ctypes
import platform
import time
from collections.abc import Callable
from pathlib import Path

import click
import diffusers
import torch

from darkroom.model_runner.pocket import autoencoder, export, flow, networks

VAE_STEPS = 1_200
DECODER_STEPS = 1_000
FLOW_STEPS = 7_000

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Names of glibc's malloc.h for `mallopt`."""


def progress(label: str, *, every: int) -> Callable[[int, int, float], None]:
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
    parser.add_argument("--vae-steps", type=int, default=VAE_STEPS)
    parser.add_argument("--decoder-steps", type=int, default=DECODER_STEPS)
    parser.add_argument("--steps", type=int, default=FLOW_STEPS, help="steps of the transformer")
    parser.add_argument("--scenes", type=int, default=flow.SCENES, help="pictures to learn from")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    _keep_memory()
    arguments.work.mkdir(parents=True, exist_ok=True)
    click.echo(f"revision {train(arguments)}")


def _keep_memory() -> None:
    """Tell glibc to keep freed memory instead of returning it: half of the training's time was page faults."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def train(arguments: argparse.Namespace) -> str:
    """Run the recipe and return the revision of the weights that it wrote."""
    nets = networks.build(seed=arguments.seed)
    nets = nets._replace(vae=_autoencoder(nets.vae, arguments))
    report = progress("scenes", every=200)
    lessons = flow.prepare(nets, count=arguments.scenes, seed=arguments.seed + 1, report=report)
    flow.learn(
        nets,
        lessons,
        steps=arguments.steps,
        seed=arguments.seed,
        checkpoint=arguments.work / "flow.safetensors",
        report=progress("transformer", every=50),
    )
    return export.write(nets, arguments.out)


def _autoencoder(vae: diffusers.AutoencoderKL, arguments: argparse.Namespace) -> diffusers.AutoencoderKL:
    """The taught autoencoder: each of its two lessons from the work folder if it is there."""
    rough, sharp = arguments.work / "vae", arguments.work / "vae-sharp"
    if not rough.exists():
        report = progress("autoencoder", every=50)
        autoencoder.learn(vae, steps=arguments.vae_steps, seed=arguments.seed, report=report)
        vae.save_pretrained(rough)
    if not sharp.exists():
        vae, report = diffusers.AutoencoderKL.from_pretrained(rough), progress("decoder", every=50)
        autoencoder.sharpen(vae, steps=arguments.decoder_steps, seed=arguments.seed + 2, report=report)
        vae.save_pretrained(sharp)
    return diffusers.AutoencoderKL.from_pretrained(sharp).eval()


if __name__ == "__main__":
    main()
