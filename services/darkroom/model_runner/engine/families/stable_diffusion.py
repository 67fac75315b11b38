"""Stable Diffusion 1.x and 2.x: a UNet over VAE latents, conditioned by one CLIP text encoder.

In: a directory that `diffusers.StableDiffusionPipeline` (or its inpainting sister) saved, and jobs. Out: pictures equal
to what the pipelines for text, image to image and inpainting make. Guidance is `true_cfg`, `none` (distilled models), or
`embedded` (latent consistency models: the scale is an input of the UNet). The safety checker is not loaded. Next:
`unet_latents` says where a generation starts and makes its picture.
"""

from collections.abc import Sequence

import diffusers
import torch
from torch import Tensor, nn

from darkroom.model_runner.engine import adapters, embeddings, errors, pictures, prompts, samplers, tiers
from darkroom.model_runner.engine.families import unet_latents
from darkroom.model_runner.engine.job import Guidance, Job, Medium, ModelSpec
from darkroom.model_runner.engine.state import BatchKey, Predictions, State

STRENGTHS = unet_latents.Strengths(image=0.8, inpaint=1.0)
"""As the pipelines have it: what is masked starts as pure noise."""


def load(
    spec: ModelSpec,
    *,
    device: torch.device,
    dtype: torch.dtype,
    adapters_resident_max: int,
    embeddings: embeddings.Cache,
) -> "StableDiffusion":
    """Read the directory and cast its weights; LoadFailed if it is not the kind that its entry says."""
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
        spec.path,
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(device)
    config = pipeline.unet.config
    if (config.time_cond_proj_dim is not None) != (spec.guidance == "embedded"):
        raise errors.LoadFailed(f"model {spec.name}: guidance {spec.guidance} does not match its UNet")
    if config.in_channels not in unet_latents.CHANNELS:
        raise errors.LoadFailed(f"model {spec.name}: a UNet of {config.in_channels} input channels is not supported")
    return StableDiffusion(spec, pipeline, adapters_resident_max=adapters_resident_max, embeddings=embeddings)


class StableDiffusion:
    """One resident model of Stable Diffusion 1.x or 2.x."""

    medium: Medium = "image"

    def __init__(
        self,
        spec: ModelSpec,
        pipeline: diffusers.StableDiffusionPipeline,
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
        texts = prompts.embed(jobs, cache=self._embeddings, encode=self._encode, is_guided=self._is_guided)
        return [self._states(job, text) for job, text in zip(jobs, texts, strict=True)]

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
                timestep_cond=self._embedded_guidance(states, dtype),
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

    def _encode(self, texts: list[str], *, tokens: int) -> list[dict[str, Tensor]]:
        """Encode texts; CLIP always takes as many tokens as it was trained on, whatever `tokens` says."""
        embedded, _ = self._pipeline.encode_prompt(texts, self._device, 1, False)
        return [{"text": text} for text in embedded]

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

    def _embedded_guidance(self, states: Sequence[State], dtype: torch.dtype) -> Tensor | None:
        """Return the guidance scales as a latent consistency model takes them: sines and cosines of `scale - 1`."""
        if self._guidance != "embedded":
            return None
        scales = torch.tensor([state.guidance - 1 for state in states])
        width = self._pipeline.unet.config.time_cond_proj_dim
        embedded: Tensor = self._pipeline.get_guidance_scale_embedding(scales, embedding_dim=width)
        return embedded.to(self._device, dtype)

    def _is_guided(self, job: Job) -> bool:
        return self._guidance == "true_cfg" and job.guidance_scale > 1


def _stack(states: Sequence[State], *names: str) -> Tensor:
    return torch.stack([state.conditioning[name] for name in names for state in states])
