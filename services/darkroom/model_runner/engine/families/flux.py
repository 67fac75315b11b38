"""FLUX: a transformer over packed 2x2 latent patches, conditioned by CLIP (pooled) and T5 (sequence).

In: a directory that `diffusers.FluxPipeline`, `FluxFillPipeline` or `FluxKontextPipeline` saved, and jobs. Out: pictures
equal to those pipelines', and for jobs with a source picture to `FluxImg2ImgPipeline`'s and `FluxInpaintPipeline`'s.
Two kinds of guidance exist: `embedded` (FLUX.1-dev: the scale is an input of the transformer) and `true_cfg`
(pocket-image: a second prediction for the negative prompt, in the same forward). A model with neither (FLUX.1-schnell)
says `none`. Those of `embedded` and `none` make the second prediction too where `extras.true_cfg_scale` is above 1.
Next: `flux_latents` says where a generation starts and makes its picture.
"""

import json
from collections.abc import Mapping, Sequence

import diffusers
import torch
from diffusers.pipelines.flux import pipeline_flux
from torch import Tensor, nn

from darkroom.model_runner.engine import adapters, embeddings, errors, prompts, samplers, step_cache, tiers
from darkroom.model_runner.engine.families import flux_latents
from darkroom.model_runner.engine.job import Guidance, Job, Medium, ModelSpec
from darkroom.model_runner.engine.state import BatchKey, Predictions, State

_KINDS: Mapping[str, flux_latents.Kind] = {
    "FluxPipeline": "text",
    "FluxImg2ImgPipeline": "text",
    "FluxInpaintPipeline": "text",
    "FluxFillPipeline": "fill",
    "FluxKontextPipeline": "edit",
}
"""What a model does, by the pipeline that saved its directory. Their parts are loaded alike."""


def load(
    spec: ModelSpec,
    *,
    device: torch.device,
    dtype: torch.dtype,
    adapters_resident_max: int,
    embeddings: embeddings.Cache,
) -> "Flux":
    """Read the directory and cast its weights; LoadFailed if it is not the kind that its entry says."""
    saved_by = json.loads((spec.path / "model_index.json").read_text()).get("_class_name")
    if saved_by not in _KINDS:
        raise errors.LoadFailed(f"model {spec.name}: saved by {saved_by}, not by one of {', '.join(_KINDS)}")
    pipeline = diffusers.FluxPipeline.from_pretrained(
        spec.path, dtype=dtype, local_files_only=True, use_safetensors=True
    ).to(device)
    if pipeline.transformer.config.guidance_embeds != (spec.guidance == "embedded"):
        raise errors.LoadFailed(f"model {spec.name}: guidance {spec.guidance} does not match its transformer")
    if pipeline.scheduler.config.stochastic_sampling:
        raise errors.LoadFailed(f"model {spec.name}: its scheduler samples stochastically, which is not supported")
    return Flux(spec, _KINDS[saved_by], pipeline, adapters_resident_max=adapters_resident_max, embeddings=embeddings)


class Flux:
    """One resident FLUX model."""

    medium: Medium = "image"

    def __init__(
        self,
        spec: ModelSpec,
        kind: flux_latents.Kind,
        pipeline: diffusers.FluxPipeline,
        *,
        adapters_resident_max: int,
        embeddings: embeddings.Cache,
    ) -> None:
        self._guidance: Guidance = spec.guidance
        self._kind = kind
        self._pipeline = pipeline
        self.tiers = tiers.Tiers(pipeline.transformer.eval())
        self._latents = flux_latents.Latents(pipeline)
        self.sizing = self._latents.sizing(kind)
        self._device: torch.device = pipeline.transformer.device
        self._embeddings = embeddings
        self.bank = adapters.Bank(pipeline.transformer, resident_max=adapters_resident_max)

    def prepare(self, jobs: Sequence[Job]) -> list[list[State]]:
        """Encode the prompts of all jobs together, then each job's picture and mask, and draw each seed's noise."""
        for job in jobs:
            self._check(job)
        texts = prompts.embed(jobs, cache=self._embeddings, encode=self._encode, is_guided=self._is_guided)
        return [self._states(job, text) for job, text in zip(jobs, texts, strict=True)]

    def _states(self, job: Job, text: dict[str, Tensor]) -> list[State]:
        task = flux_latents.task(job, self._kind)
        source = self._latents.source(job, task)
        plan = self._plan(job).after(flux_latents.first_step(job, task))
        if self._guidance == "embedded":
            text["guidance"] = torch.tensor(job.guidance_scale, device=self._device)
        tier = self.tiers.granted(job)
        states = []
        for seed in job.seeds:
            generator = torch.Generator("cpu").manual_seed(seed)
            start = self._latents.start(source, task, plan, generator, job)
            states.append(
                State(
                    batch_key=BatchKey(
                        job.model,
                        source.batch_task,
                        (job.width, job.height),
                        job.max_sequence_length,
                        self._is_guided(job),
                        tiers.precision(tier),
                    ),
                    seed=seed,
                    step=0,
                    plan=plan,
                    guidance=self._true_cfg_scale(job),
                    latents=start.latents,
                    conditioning=text | start.conditioning,
                    adapters=job.adapters,
                    noise_rng=generator.get_state() if plan.draws_noise else None,
                    tier=tier,
                )
            )
        return states

    def denoise(self, states: Sequence[State]) -> Predictions:
        """Predict as the rows' tier has it."""
        return self.tiers.denoise(states, self._forward)

    def _forward(self, transformer: nn.Module, states: Sequence[State]) -> Predictions:
        """One forward over [rows, tokens, channels]; a guided batch stacks its negative prompts below its prompts."""
        prefixes = ("", "negative_") if states[0].batch_key.guided else ("",)
        copies, dtype = len(prefixes), next(transformer.parameters()).dtype
        timesteps = torch.tensor([state.plan.timesteps[state.step] for state in states], device=self._device)
        guidance = torch.cat([_stack(states, "guidance")] * copies) if self._guidance == "embedded" else None
        with self.bank.applied([state.adapters for state in states] * copies):
            predicted: Tensor = transformer(
                hidden_states=torch.cat([self._inputs(states)] * copies).to(dtype),
                timestep=(timesteps.to(dtype) / 1000).repeat(copies),
                guidance=guidance,
                pooled_projections=torch.cat([_stack(states, prefix + "pooled") for prefix in prefixes]).to(dtype),
                encoder_hidden_states=torch.cat([_stack(states, prefix + "text") for prefix in prefixes]).to(dtype),
                txt_ids=torch.zeros(states[0].batch_key.text_tokens, 3, device=self._device, dtype=dtype),
                img_ids=states[0].conditioning["image_ids"],
                return_dict=False,
            )[0][:, : len(states[0].latents)]
        return Predictions.of(predicted, rows=len(states))

    def advance(self, states: Sequence[State], predictions: Predictions) -> list[State]:
        """Take the sampler's step; then rows that inpaint get back what they keep of their picture."""
        moved = [flux_latents.restored(state) for state in samplers.advance(states, predictions)]
        return step_cache.keep(moved, predictions)

    def decode(self, states: Sequence[State]) -> list[Tensor]:
        """Make pictures of finished states with equal batch keys."""
        return self._latents.decode(states)

    def release(self) -> Sequence[object]:
        """Let go of tier HIGH's copy; the rest are the pipeline's parts."""
        self.tiers.release()
        return list(self._pipeline.components.values())

    def _inputs(self, states: Sequence[State]) -> Tensor:
        """Return the latents with what the transformer sees in further channels (Fill) or further tokens (Kontext)."""
        latents = torch.stack([state.latents for state in states])
        if "beside" in states[0].conditioning:
            return torch.cat([latents, _stack(states, "beside")], dim=2)
        if "source" in states[0].conditioning:
            return torch.cat([latents, _stack(states, "source")], dim=1)
        return latents

    def _true_cfg_scale(self, job: Job) -> float:
        if self._guidance == "true_cfg":
            return job.guidance_scale
        scale = job.extras.get("true_cfg_scale", 1.0)
        return float(scale) if isinstance(scale, int | float) else 1.0

    def _is_guided(self, job: Job) -> bool:
        return self._true_cfg_scale(job) > 1

    def _check(self, job: Job) -> None:
        patch = self._latents.patch
        for field, length in (("width", job.width), ("height", job.height)):
            if length % patch:
                raise errors.BadRequest(f"{field}: must be a multiple of {patch}, not {length}")
        if job.negative_prompt and self._guidance != "true_cfg" and not self._is_guided(job):
            raise errors.BadRequest(f"negative_prompt: model {job.model} takes none unless true_cfg_scale is above 1")
        flux_latents.first_step(job, flux_latents.task(job, self._kind))

    def _encode(self, texts: list[str], *, tokens: int) -> list[dict[str, Tensor]]:
        embedded, pooled, _ = self._pipeline.encode_prompt(
            prompt=texts, prompt_2=None, device=self._device, max_sequence_length=tokens
        )
        return [{"text": text, "pooled": short} for text, short in zip(embedded, pooled, strict=True)]

    def _plan(self, job: Job) -> samplers.Plan:
        """Return the table of FluxPipeline's noise levels, shifted for the picture's size where the model does so."""
        config = self._pipeline.scheduler.config
        shift = pipeline_flux.calculate_shift(
            self._latents.tokens(job),
            config.base_image_seq_len,
            config.max_image_seq_len,
            config.base_shift,
            config.max_shift,
        )
        sigmas = [1 - step / job.steps for step in range(job.steps)]
        return samplers.plan(job.sampler or "flow_euler", job.steps, config=config, mu=shift, sigmas=sigmas)


def _stack(states: Sequence[State], name: str) -> Tensor:
    return torch.stack([state.conditioning[name] for state in states])
