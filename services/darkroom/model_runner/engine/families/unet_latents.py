"""Latents of the UNet families: from noise or pictures to what the UNet sees, and back.

In: a job, and its plan. Out: where each seed starts and what the UNet sees beside it, drawn in the order in which the
pipelines of diffusers draw; after each step what inpainting keeps of the picture; at the end, pictures. A UNet of 4 input
channels takes every task in the same forward, so that all share batches: inpainting blends the original back in after each
step. One of 9 channels sees the mask and the masked picture, and only inpaints. Next: `stable_diffusion` and `sdxl` take the
steps between.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from darkroom.model_runner.engine import errors, pictures, samplers
from darkroom.model_runner.engine.job import Job
from darkroom.model_runner.engine.state import State

CHANNELS = (4, 9)
"""Input channels of the UNets that are known here."""
SIZES_MULTIPLE = 8
"""Of widths and heights, as the pipelines demand, whatever the VAE's own factor."""


class Strengths(NamedTuple):
    """How much of a picture goes when the job does not say, 0 to 1."""

    image: float
    inpaint: float


class Source(NamedTuple):
    """What a job starts from, as the VAE sees it."""

    clean: DiagonalGaussianDistribution | None
    """The picture; None where inpainting starts from pure noise and the UNet looks at `masked` instead."""
    masked: DiagonalGaussianDistribution | None
    """The picture without what is to be painted anew, where the UNet looks at it."""
    mask: Tensor | None
    """[1, rows, columns] of the latents, 1 where they are painted anew; None for image to image."""


class Start(NamedTuple):
    """What one seed draws."""

    latents: Tensor
    """[channels, rows, columns], float32."""
    conditioning: dict[str, Tensor]
    """What goes on to the steps of inpainting."""


class Latents:
    """The VAE of one resident model, and what its UNet is shown."""

    def __init__(self, pipeline: Any, strengths: Strengths) -> None:
        """Take the VAE of a diffusers pipeline, whose UNet is of `CHANNELS`."""
        self._vae = pipeline.vae.eval()
        self._factor: int = pipeline.vae_scale_factor
        self._device: torch.device = pipeline.unet.device
        self._strengths = strengths
        self.sees_mask: bool = pipeline.unet.config.in_channels == CHANNELS[1]

    def check(self, job: Job) -> None:
        """Raise BadRequest, naming the field, for a size or a picture that this model cannot take, or lacks."""
        for field, length in (("width", job.width), ("height", job.height)):
            if length % SIZES_MULTIPLE:
                raise errors.BadRequest(f"{field}: must be a multiple of {SIZES_MULTIPLE}, not {length}")
        if self.sees_mask and job.mask_image is None:
            raise errors.BadRequest(f"mask_image: model {job.model} only inpaints, and needs one")
        if job.source_image is None and (job.mask_image is not None or job.strength is not None):
            raise errors.BadRequest("source_image: mask_image and strength need one")
        strength = self._strength(job)
        if job.source_image is not None and not 0 < int(job.steps * strength) <= job.steps:
            raise errors.BadRequest(f"strength: {strength} of {job.steps} steps must be at least one, at most all")

    def first_step(self, job: Job) -> int:
        """Return the step at which the job's picture enters; 0 if it has none."""
        return 0 if job.source_image is None else job.steps - int(job.steps * self._strength(job))

    def source(self, job: Job) -> Source | None:
        """Encode a job's picture, once for all its seeds; None if it has none."""
        if job.source_image is None:
            return None
        picture = pictures.read(job.source_image, field="source_image")
        pixels = pictures.pixels(picture, width=job.width, height=job.height)
        if job.mask_image is None:
            return Source(self._encode(pixels), None, None)
        drawn = pictures.read(job.mask_image, field="mask_image")
        mask = pictures.mask(drawn, width=job.width, height=job.height)
        clean = None if self.sees_mask and self._strength(job) == 1 else self._encode(pixels)
        masked = self._encode(pixels * (mask < 0.5)) if self.sees_mask else None
        small = torch.nn.functional.interpolate(mask, size=self._size(job))
        return Source(clean, masked, small[0].to(self._device))

    def start(self, job: Job, source: Source | None, plan: samplers.Plan, generator: torch.Generator) -> Start:
        """Draw what a seed draws, on the CPU in float32 and in the pipelines' order: picture, noise, masked picture."""
        shape = (self._vae.config.latent_channels, *self._size(job))
        if source is None:
            return Start(self._noise(shape, generator) * plan.noise_scale, {})
        clean = torch.zeros(()) if source.clean is None else self._sample(source.clean, generator)
        noise = self._noise(shape, generator)
        is_new = source.mask is not None and self._strength(job) == 1
        clean_part, noise_part = (0.0, plan.noise_scale) if is_new else plan.noising[0].tolist()
        latents = clean_part * clean + noise_part * noise
        if source.mask is None:
            return Start(latents, {})
        if source.masked is None:
            self._noise(shape, generator)  # the pipeline samples the masked picture although nobody looks at it
            return Start(latents, {"mask": source.mask, "clean": clean, "noise": noise})
        return Start(latents, {"mask": source.mask, "masked": self._sample(source.masked, generator)})

    def inputs(self, states: Sequence[State]) -> Tensor:
        """Return what the UNet is shown of states with equal batch keys, float32 [rows, channels, rows, columns]."""
        scales = torch.tensor([state.plan.input_scales[state.step] for state in states], device=self._device)
        inputs = torch.stack([state.latents for state in states]) * scales.view(-1, 1, 1, 1)
        if not self.sees_mask:
            return inputs
        beside = (torch.stack([state.conditioning[name] for state in states]) for name in ("mask", "masked"))
        return torch.cat([inputs, *beside], dim=1)

    def decode(self, states: Sequence[State]) -> list[Tensor]:
        """Undo the latents' scaling and run the VAE."""
        latents = torch.stack([state.latents for state in states]) / self._vae.config.scaling_factor
        decoded: Tensor = self._vae.decode(latents.to(self._vae.dtype), return_dict=False)[0]
        return list(decoded.float() * 0.5 + 0.5)

    def _strength(self, job: Job) -> float:
        if job.strength is not None:
            return job.strength
        return self._strengths.image if job.mask_image is None else self._strengths.inpaint

    def _encode(self, pixels: Tensor) -> DiagonalGaussianDistribution:
        return self._vae.encode(pixels.to(self._device, self._vae.dtype)).latent_dist

    def _sample(self, distribution: DiagonalGaussianDistribution, generator: torch.Generator) -> Tensor:
        drawn: Tensor = pictures.sample(distribution, generator)[0] * self._vae.config.scaling_factor
        return drawn

    def _noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=generator).to(self._device)

    def _size(self, job: Job) -> tuple[int, int]:
        return job.height // self._factor, job.width // self._factor


def restored(state: State) -> State:
    """Return a row that inpaints with its picture back where the mask is 0, noised as its next step expects."""
    if "clean" not in state.conditioning:
        return state
    mask, original = state.conditioning["mask"], state.conditioning["clean"]
    if state.step < state.steps_total:
        clean_part, noise_part = state.plan.noising[state.step].tolist()
        original = clean_part * original + noise_part * state.conditioning["noise"]
    return dataclasses.replace(state, latents=(1 - mask) * original + mask * state.latents)
