"""Teaches the autoencoder of pocket-image: pictures to latents and back.

In: a fresh `AutoencoderKL` and training scenes. Out: the same network taught, its latents scaled to mean 0 and
deviation 1 through `shift_factor` and `scaling_factor`. Next: `flow` learns to make such latents from words.
"""

import functools
from collections.abc import Callable, Iterator

import diffusers
import numpy as np
import torch

from darkroom.model_runner.pocket import curriculum, parts, scenes

BATCH = 32
LEARNING_RATE = 2e-3
WARMUP_STEPS = 50

DIVERGENCE_WEIGHT = 2e-4
"""Weight of the latents' divergence from a normal distribution: enough to keep them smooth, too little to blur."""

SHARPEN_GRID_PX = 8
"""The decoder is sharpened where the transformer will put things: between its tokens."""

SHARPEN_NOISE = 0.1
"""Largest deviation of the noise on latents while the decoder is sharpened; the latents' own is about 1.2."""


def pictures(*, seed: int, grid_px: int = 1) -> Iterator[tuple[scenes.Scene, scenes.Pixels]]:
    """Training scenes with their pictures, without end; centres lie at multiples of grid_px."""
    for number, scene in enumerate(scenes.training_scenes(seed=seed)):
        yield scene, scenes.draw(scene, seed=seed * 1_000_003 + number, grid_px=grid_px).pixels


def tensor(pixels: list[scenes.Pixels]) -> torch.Tensor:
    """Pictures as the networks see them: float32, N x 3 x H x W, from -1 to 1."""
    stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    return (stacked.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def learn(vae: diffusers.AutoencoderKL, *, steps: int, seed: int, report: Callable[[int, int, float], None]) -> None:
    """Train the autoencoder in place; `report` is told (step, steps, mean absolute pixel error)."""
    torch.manual_seed(seed)
    vae.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    source = pictures(seed=seed)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * curriculum.rate(step, steps=steps, warmup=WARMUP_STEPS)
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


def sharpen(vae: diffusers.AutoencoderKL, *, steps: int, seed: int, report: Callable[[int, int, float], None]) -> None:
    """Go on with the decoder alone, on the latents as they are used: small stars get their tips back.

    The latents stay as they are, so what was learnt about them stays right. A little noise stands for the
    transformer's errors. `report` is told (step, steps, mean absolute pixel error).
    """
    torch.manual_seed(seed)
    vae.to(memory_format=torch.channels_last).train()
    weights, crew, source = list(vae.decoder.parameters()), parts.Crew(), pictures(seed=seed, grid_px=SHARPEN_GRID_PX)
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, betas=(0.9, 0.99), fused=True)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * curriculum.rate(step, steps=steps, warmup=WARMUP_STEPS)
        truth = tensor([next(source)[1] for _ in range(BATCH)])
        noise = torch.randn(BATCH, vae.config.latent_channels, *(side // 4 for side in truth.shape[2:]))
        noise *= SHARPEN_NOISE * torch.rand(BATCH, 1, 1, 1)
        error = crew.differentiate(functools.partial(_decoding_error, vae), (truth, noise), weights)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        report(step, steps, error)
    vae.eval()


def _decoding_error(vae: diffusers.AutoencoderKL, truth: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        latents = vae.encode(truth).latent_dist.mode() + noise
    error: torch.Tensor = (vae.decode(latents).sample - truth).abs().mean()
    return error


@torch.no_grad()
def _scale(vae: diffusers.AutoencoderKL, source: Iterator[tuple[scenes.Scene, scenes.Pixels]]) -> None:
    latents = vae.encode(tensor([next(source)[1] for _ in range(512)])).latent_dist.mode()
    vae.register_to_config(shift_factor=float(latents.mean()), scaling_factor=float(1 / latents.std()))


@torch.no_grad()
def encode(vae: diffusers.AutoencoderKL, pixels: list[scenes.Pixels]) -> torch.Tensor:
    """Scaled latents of pictures, N x LATENT_CHANNELS x side x side."""
    latents: torch.Tensor = vae.encode(tensor(pixels)).latent_dist.mode()
    return (latents - float(vae.config.shift_factor)) * float(vae.config.scaling_factor)
