"""Teaches the autoencoder of pocket-image: pictures to latents and back.

In: a fresh `AutoencoderKL` and training scenes. Out: the same network taught, its latents scaled to mean 0 and
deviation 1 through `shift_factor` and `scaling_factor`. Next: `flow` learns to make such latents from words.
"""

from collections.abc import Callable, Iterator

import diffusers
import numpy as np
import torch

from darkroom.model_runner.pocket import scenes

BATCH = 32
LEARNING_RATE = 2e-3
WARMUP_STEPS = 50

DIVERGENCE_WEIGHT = 2e-4
"""Weight of the latents' divergence from a normal distribution: enough to keep them smooth, too little to blur."""


def pictures(*, seed: int) -> Iterator[tuple[scenes.Scene, scenes.Pixels]]:
    """Training scenes with their pictures, without end."""
    for number, scene in enumerate(scenes.training_scenes(seed=seed)):
        yield scene, scenes.draw(scene, seed=seed * 1_000_003 + number).pixels


def tensor(pixels: list[scenes.Pixels]) -> torch.Tensor:
    """Pictures as the networks see them: float32, N x 3 x H x W, from -1 to 1."""
    stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    return (stacked.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def rate(step: int, *, steps: int, warmup_steps: int) -> float:
    """Share of the learning rate at a step: a linear rise, then half a cosine down to nothing."""
    rise = min(1.0, (step + 1) / warmup_steps)
    return rise * 0.5 * (1 + float(np.cos(np.pi * min(1.0, step / steps))))


def learn(vae: diffusers.AutoencoderKL, *, steps: int, seed: int, report: Callable[[int, int, float], None]) -> None:
    """Train the autoencoder in place; `report` is told (step, steps, mean absolute pixel error)."""
    torch.manual_seed(seed)
    vae.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    source = pictures(seed=seed)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * rate(step, steps=steps, warmup_steps=WARMUP_STEPS)
        truth = tensor([next(source)[1] for _ in range(BATCH)])
        latents = vae.encode(truth).latent_dist
        difference = vae.decode(latents.sample()).sample - truth
        divergence = 0.5 * (latents.mean.square() + latents.var - 1 - latents.logvar).mean()
        loss = difference.abs().mean() + difference.square().mean() + DIVERGENCE_WEIGHT * divergence
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        report(step, steps, float(difference.detach().abs().mean()))
    vae.eval()
    _scale(vae, source)


@torch.no_grad()
def _scale(vae: diffusers.AutoencoderKL, source: Iterator[tuple[scenes.Scene, scenes.Pixels]]) -> None:
    latents = vae.encode(tensor([next(source)[1] for _ in range(512)])).latent_dist.mode()
    vae.register_to_config(shift_factor=float(latents.mean()), scaling_factor=float(1 / latents.std()))


@torch.no_grad()
def encode(vae: diffusers.AutoencoderKL, pixels: list[scenes.Pixels]) -> torch.Tensor:
    """Scaled latents of pictures, N x LATENT_CHANNELS x side x side."""
    latents: torch.Tensor = vae.encode(tensor(pixels)).latent_dist.mode()
    return (latents - float(vae.config.shift_factor)) * float(vae.config.scaling_factor)
