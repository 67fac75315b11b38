"""FLUX's latents: from noise or pictures to packed 2x2 patches, and back.

In: a job, what it asks of a model, and its plan. Out: where each seed starts and what the transformer sees beside it,
drawn in the order in which the pipelines of diffusers draw (FluxImg2Img, FluxInpaint, FluxFill and FluxKontext, the
last as without its resizing to preferred sizes); at the end, pictures. Next: `flux` takes the steps between.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import diffusers
import PIL.Image
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.pipelines.flux import pipeline_flux
from torch import Tensor

from darkroom.model_runner.engine import errors, pictures, samplers
from darkroom.model_runner.engine.job import Job
from darkroom.model_runner.engine.state import State

Kind = Literal["text", "fill", "edit"]
"""What a model was trained for: `text` takes pictures too, `fill` is FLUX.1 Fill, `edit` is FLUX.1 Kontext."""
Task = Literal["text", "image", "inpaint", "fill", "edit"]
STRENGTHS: Mapping[Task, float] = {"image": 0.6, "inpaint": 0.6, "fill": 1.0}
"""When the job names none, as the pipelines have it."""
EDITED_PIXELS_MAX = 1 << 20
"""Of a picture that Kontext edits. Larger ones are scaled down: it was trained on about as many."""


def task(job: Job, kind: Kind) -> Task:
    """Return what a job asks of a model; BadRequest names the field that it cannot take or lacks."""
    masked = job.mask_image is not None
    if kind == "fill":
        for field, given in (("source_image", job.source_image), ("mask_image", job.mask_image)):
            if given is None:
                raise errors.BadRequest(f"{field}: model {job.model} only fills in pictures, and needs one")
        return "fill"
    if job.source_image is None:
        if masked or job.strength is not None:
            raise errors.BadRequest("source_image: mask_image and strength need one")
        return "text"
    if kind == "edit":
        for field, refused in (("mask_image", masked), ("strength", job.strength is not None)):
            if refused:
                raise errors.BadRequest(f"{field}: model {job.model} edits by its prompt alone, and takes none")
        return "edit"
    return "inpaint" if masked else "image"


def first_step(job: Job, task: Task) -> int:
    """Return the step at which the job's picture enters; BadRequest if that leaves none to take."""
    return pictures.first_step(job, strength=STRENGTHS.get(task, 1.0))


def edited_size(size: pictures.Size, *, patch: int) -> pictures.Size:
    """Return the size in which Kontext sees a picture: its own in whole patches, or about as many pixels as allowed."""
    width, height = size
    scale = min(1.0, math.sqrt(EDITED_PIXELS_MAX / (width * height)))
    return max(int(width * scale) // patch, 1) * patch, max(int(height * scale) // patch, 1) * patch


class Source(NamedTuple):
    """What all seeds of a job start from."""

    batch_task: str
    """States with equal ones can share a forward: the transformer sees as many tokens and channels, at equal places."""
    clean: DiagonalGaussianDistribution | None
    """What the VAE says of the picture that noise is added to."""
    masked: DiagonalGaussianDistribution | None
    """Of the picture without what is to be painted anew, where the transformer looks at it."""
    conditioning: dict[str, Tensor]


class Start(NamedTuple):
    """Where one seed starts."""

    latents: Tensor
    """Packed, [tokens, channels], float32."""
    conditioning: dict[str, Tensor]


class Latents:
    """The VAE of one resident FLUX model."""

    def __init__(self, pipeline: diffusers.FluxPipeline) -> None:
        self._vae = pipeline.vae.eval()
        self._factor: int = pipeline.vae_scale_factor
        self._device: torch.device = pipeline.transformer.device
        self._dtype: torch.dtype = pipeline.transformer.dtype

    @property
    def patch(self) -> int:
        """Pixels along each side of what becomes one token."""
        return self._factor * 2

    def sizing(self, kind: Kind) -> pictures.Sizing:
        """Return in what size a model of this kind wants pictures."""
        if kind != "edit":
            return pictures.as_asked
        patch = self.patch  # and not the model, which may leave
        return lambda job, size: edited_size(size, patch=patch)

    def tokens(self, job: Job) -> int:
        """Return how many make the job's picture."""
        return (job.width // self.patch) * (job.height // self.patch)

    def source(self, job: Job, task: Task) -> Source:
        """Read and encode the files of a job, once for all its seeds."""
        ids = self._ids(job.width, job.height)
        if job.source_image is None:
            return Source("text", None, None, {"image_ids": ids})
        picture = pictures.read(job.source_image, field="source_image")
        if task == "edit":
            return self._edited(picture, ids)
        pixels = pictures.pixels(picture, width=job.width, height=job.height)
        clean = self._encode(pixels)
        if job.mask_image is None:
            return Source("text", clean, None, {"image_ids": ids})
        drawn = pictures.read(job.mask_image, field="mask_image")
        mask = pictures.mask(drawn, width=job.width, height=job.height)
        if task == "fill":
            packed = self._pack(torch.nn.functional.pixel_unshuffle(mask, self._factor))
            return Source("fill", clean, self._encode(pixels * (1 - mask)), {"image_ids": ids, "mask": packed})
        small = mask[:, :, :: self._factor, :: self._factor]
        packed = self._pack(small.repeat(1, self._vae.config.latent_channels, 1, 1))
        return Source("text", clean, None, {"image_ids": ids, "mask": packed})

    def start(self, source: Source, task: Task, plan: samplers.Plan, generator: torch.Generator, job: Job) -> Start:
        """Draw what a seed draws, on the CPU in float32: picture, noise, masked picture."""
        if source.clean is None:
            return Start(self._noise(generator, job) * plan.noise_scale, source.conditioning)
        clean = self._scale(pictures.sample(source.clean, generator))
        noise = self._noise(generator, job)
        noised = _noised(clean, noise, plan, step=0)
        if task == "inpaint":
            return Start(noised, source.conditioning | {"clean": clean, "noise": noise})
        if source.masked is None:
            return Start(noised, source.conditioning)
        masked = self._scale(pictures.sample(source.masked, generator))
        beside = torch.cat([masked, source.conditioning["mask"]], dim=-1)
        return Start(noised, {"image_ids": source.conditioning["image_ids"], "beside": beside})

    def decode(self, states: Sequence[State]) -> list[Tensor]:
        """Unpack the patches, undo the latents' scaling and run the VAE."""
        config = self._vae.config
        width, height = states[0].batch_key.size
        latents = pipeline_flux.FluxPipeline._unpack_latents(
            torch.stack([state.latents for state in states]), height, width, self._factor
        )
        latents = latents / config.scaling_factor + (config.shift_factor or 0.0)
        decoded: Tensor = self._vae.decode(latents.to(self._dtype), return_dict=False)[0]
        return list(decoded.float() * 0.5 + 0.5)

    def _edited(self, picture: PIL.Image.Image, ids: Tensor) -> Source:
        """Encode a picture as it is, but for its largest size; its tokens follow those of the new one, at the same places."""
        width, height = edited_size(picture.size, patch=self.patch)
        encoded = self._encode(pictures.pixels(picture, width=width, height=height))
        source_ids = self._ids(width, height)
        source_ids[:, 0] = 1
        conditioning = {"image_ids": torch.cat([ids, source_ids]), "source": self._scale(encoded.mode().float())}
        return Source(f"edit {width}x{height}", None, None, conditioning)

    def _encode(self, pixels: Tensor) -> DiagonalGaussianDistribution:
        return self._vae.encode(pixels.to(self._device, self._dtype)).latent_dist

    def _scale(self, latents: Tensor) -> Tensor:
        config = self._vae.config
        return self._pack((latents - (config.shift_factor or 0.0)) * config.scaling_factor)

    def _noise(self, generator: torch.Generator, job: Job) -> Tensor:
        rows, columns = job.height // self._factor, job.width // self._factor
        return self._pack(torch.randn(1, self._vae.config.latent_channels, rows, columns, generator=generator))

    def _pack(self, latents: Tensor) -> Tensor:
        """Return [1, channels, rows, columns] as [tokens, 4 * channels]."""
        packed: Tensor = pipeline_flux.FluxPipeline._pack_latents(latents, *latents.shape)
        return packed[0].to(self._device)

    def _ids(self, width: int, height: int) -> Tensor:
        ids: Tensor = pipeline_flux.FluxPipeline._prepare_latent_image_ids(
            1, height // self.patch, width // self.patch, self._device, self._dtype
        )
        return ids


def restored(state: State) -> State:
    """Return a row that inpaints with its picture back where the mask is 0, noised as its next step expects."""
    if "clean" not in state.conditioning:
        return state
    picture, mask = state.conditioning["clean"], state.conditioning["mask"]
    if state.step < state.steps_total:
        picture = _noised(picture, state.conditioning["noise"], state.plan, step=state.step)
    return dataclasses.replace(state, latents=(1 - mask) * picture + mask * state.latents)


def _noised(clean: Tensor, noise: Tensor, plan: samplers.Plan, *, step: int) -> Tensor:
    noised: Tensor = plan.noising[step, 0].item() * clean + plan.noising[step, 1].item() * noise
    return noised
