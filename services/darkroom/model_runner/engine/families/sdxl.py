"""Stable Diffusion XL: a UNet over VAE latents, conditioned by two CLIP text encoders and by the picture's size.

In: a directory that `diffusers.StableDiffusionXLPipeline` (or its inpainting sister) saved, and jobs. Out: pictures
equal to what the pipelines for text, image to image and inpainting make. A UNet of 4 input channels takes every task in
the same forward, so that all share batches: inpainting then blends the original back in after each step. One of 9
channels sees the mask and the masked picture, and only inpaints. Guidance is `true_cfg` or `none` (distilled models).
The refiner is another model (one text encoder, aesthetic scores) and is refused.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import diffusers
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn

from darkroom.model_runner.engine import adapters, captions, embeddings, errors, pictures, samplers, tiers
from darkroom.model_runner.engine.job import Guidance, Job, Medium, ModelSpec
from darkroom.model_runner.engine.state import BatchKey, Predictions, State

SIZES_MULTIPLE = 8
"""Of widths and heights, as the pipelines demand, whatever the VAE's own factor."""
STRENGTH_IMAGE = 0.3
"""For image to image when the job names none, as the pipeline has it."""
STRENGTH_INPAINT = 0.9999
"""For inpainting, as the pipeline has it: all steps but one, and a trace of the original beneath the mask."""


def load(
    spec: ModelSpec,
    *,
    device: torch.device,
    dtype: torch.dtype,
    adapters_resident_max: int,
    embeddings: embeddings.Cache,
) -> "Sdxl":
    """Read the directory and cast its weights; LoadFailed if it is not the kind that its entry says."""
    saved = diffusers.StableDiffusionXLPipeline.load_config(spec.path, local_files_only=True)
    if saved.get("requires_aesthetics_score") or saved["text_encoder"][0] is None:
        raise errors.LoadFailed(f"model {spec.name}: an SDXL refiner, which is not supported; serve the base model")
    pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(
        spec.path, dtype=dtype, local_files_only=True, use_safetensors=True, add_watermarker=False
    ).to(device)
    _check_parts(spec, pipeline)
    if dtype == torch.float16 and pipeline.vae.config.force_upcast:
        pipeline.vae.to(torch.float32)  # it overflows in float16
    return Sdxl(spec, pipeline, adapters_resident_max=adapters_resident_max, embeddings=embeddings)


def _check_parts(spec: ModelSpec, pipeline: diffusers.StableDiffusionXLPipeline) -> None:
    unet = pipeline.unet.config
    if spec.guidance == "embedded" or unet.time_cond_proj_dim is not None:
        raise errors.LoadFailed(f"model {spec.name}: guidance embedded is not supported for SDXL")
    if unet.in_channels not in (4, 9):
        raise errors.LoadFailed(f"model {spec.name}: a UNet of {unet.in_channels} input channels is not supported")
    if pipeline.vae.config.latents_mean is not None:
        raise errors.LoadFailed(f"model {spec.name}: latents normalised by channel are not supported")


class _Source(NamedTuple):
    """What a job starts from, as the VAE sees it."""

    clean: DiagonalGaussianDistribution | None
    """The picture; None where inpainting starts from pure noise and the UNet looks at `masked` instead."""
    masked: DiagonalGaussianDistribution | None
    """The picture without what is to be painted anew, where the UNet looks at it."""
    mask: Tensor | None
    """[1, rows, columns] of the latents, 1 where they are painted anew; None for image to image."""


class _Start(NamedTuple):
    """What one seed draws."""

    latents: Tensor
    conditioning: dict[str, Tensor]
    """What goes on to the steps of inpainting."""


class Sdxl:
    """One resident base model of Stable Diffusion XL."""

    medium: Medium = "image"

    def __init__(
        self,
        spec: ModelSpec,
        pipeline: diffusers.StableDiffusionXLPipeline,
        *,
        adapters_resident_max: int,
        embeddings: embeddings.Cache,
    ) -> None:
        self._guidance: Guidance = spec.guidance
        self._pipeline = pipeline
        self._tiers = tiers.Tiers(pipeline.unet.eval())
        self._vae = pipeline.vae.eval()
        self._device: torch.device = pipeline.unet.device
        self._sees_mask: bool = pipeline.unet.config.in_channels == 9
        self._embeddings = embeddings
        self.bank = adapters.Bank(pipeline.unet, resident_max=adapters_resident_max, prefix="unet")

    def prepare(self, jobs: Sequence[Job]) -> list[list[State]]:
        """Encode the prompts of all jobs together, then each job's picture and mask, and draw each seed's noise."""
        for job in jobs:
            self._check(job)
        return [self._states(job, text) for job, text in zip(jobs, self._embed(jobs), strict=True)]

    def denoise(self, states: Sequence[State]) -> Predictions:
        """Predict as the rows' tier has it."""
        return self._tiers.denoise(states, self._forward)

    def _forward(self, unet: nn.Module, states: Sequence[State]) -> Predictions:
        """One forward over [rows, channels, rows, columns]; a guided batch stacks negative prompts below prompts."""
        guided = states[0].batch_key.guided
        copies, dtype = 2 if guided else 1, next(unet.parameters()).dtype
        scales = self._column([state.plan.input_scales[state.step] for state in states])
        inputs = torch.stack([state.latents for state in states]) * scales.view(-1, 1, 1, 1)
        if self._sees_mask:
            inputs = torch.cat([inputs, _stack(states, "mask"), _stack(states, "masked")], dim=1)
        timesteps = self._column([state.plan.timesteps[state.step] for state in states])
        with self.bank.applied([state.adapters for state in states] * copies):
            predicted: Tensor = unet(
                inputs.to(dtype).repeat(copies, 1, 1, 1),
                timesteps.repeat(copies),
                encoder_hidden_states=_stack(states, "text", *(["negative_text"] if guided else [])).to(dtype),
                added_cond_kwargs={
                    "text_embeds": _stack(states, "pooled", *(["negative_pooled"] if guided else [])).to(dtype),
                    "time_ids": _stack(states, "time_ids").to(dtype).repeat(copies, 1),
                },
                return_dict=False,
            )[0]
        if not guided:
            return Predictions(predicted, None)
        return Predictions(predicted[: len(states)], predicted[len(states) :])

    def advance(self, states: Sequence[State], predictions: Predictions) -> list[State]:
        """Take the sampler's step; then rows that keep a part of their picture get it back, at their noise level."""
        return [_kept(state) for state in samplers.advance(states, predictions)]

    def decode(self, states: Sequence[State]) -> list[Tensor]:
        """Undo the latents' scaling and run the VAE."""
        latents = torch.stack([state.latents for state in states]) / self._vae.config.scaling_factor
        decoded: Tensor = self._vae.decode(latents.to(self._vae.dtype), return_dict=False)[0]
        return list(decoded.float() * 0.5 + 0.5)

    def _check(self, job: Job) -> None:
        for field, length in (("width", job.width), ("height", job.height)):
            if length % SIZES_MULTIPLE:
                raise errors.BadRequest(f"{field}: must be a multiple of {SIZES_MULTIPLE}, not {length}")
        if job.negative_prompt and self._guidance != "true_cfg":
            raise errors.BadRequest(f"negative_prompt: model {job.model} takes none")
        if self._sees_mask and job.mask_image is None:
            raise errors.BadRequest(f"mask_image: model {job.model} only inpaints, and needs one")
        if job.source_image is None and (job.mask_image is not None or job.strength is not None):
            raise errors.BadRequest("source_image: mask_image and strength need one")
        if job.source_image is not None and not 0 < int(job.steps * _strength(job)) <= job.steps:
            raise errors.BadRequest(
                f"strength: {_strength(job)} of {job.steps} steps must be at least one, at most all"
            )

    def _embed(self, jobs: Sequence[Job]) -> list[dict[str, Tensor]]:
        """Return each job's texts, those of all jobs encoded together."""
        found = captions.embed(
            jobs,
            cache=self._embeddings,
            encode=self._encode,
            is_guided=lambda job: self._is_guided(job) and not self._zeroes(job),
        )
        for text, job in zip(found, jobs, strict=True):
            if self._is_guided(job) and self._zeroes(job):
                text |= {f"negative_{name}": torch.zeros_like(tensor) for name, tensor in text.items()}
        return found

    def _encode(self, texts: list[str], *, tokens: int) -> list[dict[str, Tensor]]:
        """Encode texts; CLIP always takes as many tokens as it was trained on, whatever `tokens` says."""
        embedded, _, pooled, _ = self._pipeline.encode_prompt(
            texts, device=self._device, do_classifier_free_guidance=False
        )
        return [{"text": text, "pooled": short} for text, short in zip(embedded, pooled, strict=True)]

    def _zeroes(self, job: Job) -> bool:
        """Return whether an absent negative prompt is zeros for this model, rather than the embedding of no words."""
        return not job.negative_prompt and bool(self._pipeline.config.force_zeros_for_empty_prompt)

    def _states(self, job: Job, text: dict[str, Tensor]) -> list[State]:
        config = self._pipeline.scheduler.config
        plan = samplers.plan(job.sampler or samplers.default_name(config), job.steps, config=config)
        source = None
        if job.source_image is not None:
            source = self._source(job)
            plan = plan.after(job.steps - int(job.steps * _strength(job)))
        tier = self._tiers.granted(job)
        key = BatchKey(
            job.model,
            "inpaint" if self._sees_mask else "text",
            (job.width, job.height),
            self._pipeline.tokenizer.model_max_length,
            self._is_guided(job),
            tiers.precision(tier),
        )
        # Original size, crop, target size, each (height, width): trained on, and here always the picture's own.
        size = (job.height, job.width)
        text["time_ids"] = torch.tensor([*size, 0, 0, *size], dtype=torch.float32, device=self._device)
        states = []
        for seed in job.seeds:
            generator = torch.Generator("cpu").manual_seed(seed)
            start = self._start(job, source, plan, generator)
            states.append(
                State(
                    batch_key=key,
                    seed=seed,
                    step=0,
                    plan=plan,
                    guidance=job.guidance_scale,
                    latents=start.latents,
                    conditioning=text | start.conditioning,
                    adapters=job.adapters,
                    noise_rng=generator.get_state() if plan.draws_noise else None,
                    tier=tier,
                )
            )
        return states

    def _source(self, job: Job) -> _Source:
        """Encode a job's picture, once for all its seeds."""
        picture = pictures.read(job.source_image or b"", field="source_image")
        pixels = pictures.pixels(picture, width=job.width, height=job.height)
        if job.mask_image is None:
            return _Source(self._encode_pixels(pixels), None, None)
        drawn = pictures.read(job.mask_image, field="mask_image")
        mask = pictures.mask(drawn, width=job.width, height=job.height)
        clean = None if self._sees_mask and _strength(job) == 1 else self._encode_pixels(pixels)
        masked = self._encode_pixels(pixels * (mask < 0.5)) if self._sees_mask else None
        small = torch.nn.functional.interpolate(mask, size=self._latent_size(job))
        return _Source(clean, masked, small[0].to(self._device))

    def _encode_pixels(self, pixels: Tensor) -> DiagonalGaussianDistribution:
        return self._vae.encode(pixels.to(self._device, self._vae.dtype)).latent_dist

    def _start(self, job: Job, source: _Source | None, plan: samplers.Plan, generator: torch.Generator) -> _Start:
        """Draw what a seed draws, on the CPU in float32 and in the pipelines' order: picture, noise, masked picture."""
        shape = (self._vae.config.latent_channels, *self._latent_size(job))
        if source is None:
            return _Start(self._noise(shape, generator) * plan.noise_scale, {})
        clean = torch.zeros(()) if source.clean is None else self._sample(source.clean, generator)
        noise = self._noise(shape, generator)
        is_new = source.mask is not None and _strength(job) == 1
        clean_part, noise_part = (0.0, plan.noise_scale) if is_new else plan.noising[0].tolist()
        latents = clean_part * clean + noise_part * noise
        if source.mask is None:
            return _Start(latents, {})
        if source.masked is None:
            self._noise(shape, generator)  # the pipeline samples the masked picture although nobody looks at it
            return _Start(latents, {"mask": source.mask, "clean": clean, "noise": noise})
        return _Start(latents, {"mask": source.mask, "masked": self._sample(source.masked, generator)})

    def _sample(self, distribution: DiagonalGaussianDistribution, generator: torch.Generator) -> Tensor:
        drawn: Tensor = pictures.sample(distribution, generator)[0] * self._vae.config.scaling_factor
        return drawn

    def _noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=generator).to(self._device)

    def _is_guided(self, job: Job) -> bool:
        return self._guidance == "true_cfg" and job.guidance_scale > 1

    def _latent_size(self, job: Job) -> tuple[int, int]:
        return job.height // self._pipeline.vae_scale_factor, job.width // self._pipeline.vae_scale_factor

    def _column(self, values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self._device)


def _kept(state: State) -> State:
    """Return a row that inpaints by blending with its original where the mask is 0, noised as its next step expects."""
    if "clean" not in state.conditioning:
        return state
    mask, original = state.conditioning["mask"], state.conditioning["clean"]
    if state.step < state.steps_total:
        clean_part, noise_part = state.plan.noising[state.step].tolist()
        original = clean_part * original + noise_part * state.conditioning["noise"]
    return dataclasses.replace(state, latents=(1 - mask) * original + mask * state.latents)


def _strength(job: Job) -> float:
    if job.strength is not None:
        return job.strength
    return STRENGTH_IMAGE if job.mask_image is None else STRENGTH_INPAINT


def _stack(states: Sequence[State], *names: str) -> Tensor:
    return torch.stack([state.conditioning[name] for name in names for state in states])
