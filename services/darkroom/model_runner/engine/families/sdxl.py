"""Stable Diffusion XL: a UNet over VAE latents, conditioned by two CLIP text encoders and by the picture's size.

In: a directory that `diffusers.StableDiffusionXLPipeline` (or its inpainting sister) saved, and jobs. Out: pictures
equal to what the pipelines for text, image to image and inpainting make. Guidance is `true_cfg` or `none` (distilled
models). The refiner is another model (one text encoder, aesthetic scores) and is refused. Next: `unet_latents` says where a
generation starts and makes its picture.
"""

from collections.abc import Sequence

import diffusers
import torch
from torch import Tensor, nn

from darkroom.model_runner.engine import adapters, embeddings, errors, pictures, prompts, samplers, tiers
from darkroom.model_runner.engine.families import unet_latents
from darkroom.model_runner.engine.job import Guidance, Job, Medium, ModelSpec
from darkroom.model_runner.engine.state import BatchKey, Predictions, State

STRENGTHS = unet_latents.Strengths(image=0.3, inpaint=0.9999)
"""As the pipelines have it; of inpainting all steps but one, and a trace of the original beneath the mask."""


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
    if unet.in_channels not in unet_latents.CHANNELS:
        raise errors.LoadFailed(f"model {spec.name}: a UNet of {unet.in_channels} input channels is not supported")
    if pipeline.vae.config.latents_mean is not None:
        raise errors.LoadFailed(f"model {spec.name}: latents normalised by channel are not supported")


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
        self.tiers = tiers.Tiers(pipeline.unet.eval())
        self._latents = unet_latents.Latents(pipeline, STRENGTHS)
        self._device: torch.device = pipeline.unet.device
        self._embeddings = embeddings
        self.bank = adapters.Bank(pipeline.unet, resident_max=adapters_resident_max, prefix="unet")
        self.sizing: pictures.Sizing = pictures.as_asked

    def prepare(self, jobs: Sequence[Job]) -> list[list[State]]:
        """Encode the prompts of all jobs together, then each job's picture and mask, and draw each seed's noise."""
        for job in jobs:
            self._check(job)
        return [self._states(job, text) for job, text in zip(jobs, self._embed(jobs), strict=True)]

    def denoise(self, states: Sequence[State]) -> Predictions:
        """Predict as the rows' tier has it."""
        return self.tiers.denoise(states, self._forward)

    def _forward(self, unet: nn.Module, states: Sequence[State]) -> Predictions:
        """One forward over [rows, channels, rows, columns]; a guided batch stacks negative prompts below prompts."""
        guided = states[0].batch_key.guided
        copies, dtype = 2 if guided else 1, next(unet.parameters()).dtype
        timesteps = torch.tensor([state.plan.timesteps[state.step] for state in states], device=self._device)
        with self.bank.applied([state.adapters for state in states] * copies):
            predicted: Tensor = unet(
                self._latents.inputs(states).to(dtype).repeat(copies, 1, 1, 1),
                timesteps.repeat(copies),
                encoder_hidden_states=_stack(states, "text", *(["negative_text"] if guided else [])).to(dtype),
                added_cond_kwargs={
                    "text_embeds": _stack(states, "pooled", *(["negative_pooled"] if guided else [])).to(dtype),
                    "time_ids": _stack(states, "time_ids").to(dtype).repeat(copies, 1),
                },
                return_dict=False,
            )[0]
        return Predictions.of(predicted, rows=len(states))

    def advance(self, states: Sequence[State], predictions: Predictions) -> list[State]:
        """Take the sampler's step; then rows that keep a part of their picture get it back, at their noise level."""
        return [unet_latents.restored(state) for state in samplers.advance(states, predictions)]

    def decode(self, states: Sequence[State]) -> list[Tensor]:
        """Make pictures of finished states with equal batch keys."""
        return self._latents.decode(states)

    def release(self) -> Sequence[object]:
        """Let go of tier HIGH's copy; the rest are the pipeline's parts."""
        self.tiers.release()
        return list(self._pipeline.components.values())

    def _check(self, job: Job) -> None:
        self._latents.check(job)
        if job.negative_prompt and self._guidance != "true_cfg":
            raise errors.BadRequest(f"negative_prompt: model {job.model} takes none")

    def _embed(self, jobs: Sequence[Job]) -> list[dict[str, Tensor]]:
        """Return each job's texts, those of all jobs encoded together."""
        found = prompts.embed(
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
        plan = plan.after(self._latents.first_step(job))
        source = self._latents.source(job)
        tier = self.tiers.granted(job)
        key = BatchKey(
            job.model,
            "inpaint" if self._latents.sees_mask else "text",
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
            start = self._latents.start(job, source, plan, generator)
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

    def _is_guided(self, job: Job) -> bool:
        return self._guidance == "true_cfg" and job.guidance_scale > 1


def _stack(states: Sequence[State], *names: str) -> Tensor:
    return torch.stack([state.conditioning[name] for name in names for state in states])
