"""FLUX: a transformer over packed 2x2 latent patches, conditioned by CLIP (pooled) and T5 (sequence).

In: a directory that `diffusers.FluxPipeline` saved, and jobs. Out: pictures equal to that pipeline's. Two kinds of
guidance exist: `embedded` (FLUX.1-dev: the scale is an input of the transformer) and `true_cfg` (pocket-image: a
second prediction for the negative prompt, in the same forward). A model with neither (FLUX.1-schnell) says `none`.
"""

from collections.abc import Callable, Sequence

import diffusers
import torch
from diffusers.pipelines.flux import pipeline_flux
from torch import Tensor

from darkroom.model_runner.engine import adapters, embeddings, errors, samplers
from darkroom.model_runner.engine.families import Medium
from darkroom.model_runner.engine.job import Guidance, Job, ModelSpec
from darkroom.model_runner.engine.state import BatchKey, Predictions, State


def load(
    spec: ModelSpec,
    *,
    device: torch.device,
    dtype: torch.dtype,
    adapters_resident_max: int,
    embeddings: embeddings.Cache,
) -> "Flux":
    """Read the directory and cast its weights; LoadFailed if it is not the kind that its entry says."""
    pipeline = diffusers.FluxPipeline.from_pretrained(
        spec.path, dtype=dtype, local_files_only=True, use_safetensors=True
    ).to(device)
    if pipeline.transformer.config.guidance_embeds != (spec.guidance == "embedded"):
        raise errors.LoadFailed(f"model {spec.name}: guidance {spec.guidance} does not match its transformer")
    if pipeline.scheduler.config.stochastic_sampling:
        raise errors.LoadFailed(f"model {spec.name}: its scheduler samples stochastically, which is not supported")
    return Flux(spec, pipeline, adapters_resident_max=adapters_resident_max, embeddings=embeddings)


class Flux:
    """One resident FLUX model."""

    medium: Medium = "image"

    def __init__(
        self,
        spec: ModelSpec,
        pipeline: diffusers.FluxPipeline,
        *,
        adapters_resident_max: int,
        embeddings: embeddings.Cache,
    ) -> None:
        self._model = spec.name
        self._guidance: Guidance = spec.guidance
        self._pipeline = pipeline
        self._transformer = pipeline.transformer.eval()
        self._vae = pipeline.vae.eval()
        self._device: torch.device = pipeline.transformer.device
        self._dtype: torch.dtype = pipeline.transformer.dtype
        self._embeddings = embeddings
        self.bank = adapters.Bank(pipeline.transformer, resident_max=adapters_resident_max)

    def prepare(self, jobs: Sequence[Job]) -> list[list[State]]:
        """Encode the prompts and draw each seed's noise."""
        for job in jobs:
            self._check(job)
        return [self._states(job, conditioning) for job, conditioning in zip(jobs, self._embed(jobs), strict=True)]

    def _states(self, job: Job, conditioning: dict[str, Tensor]) -> list[State]:
        patch = self._pipeline.vae_scale_factor * 2
        rows, columns = job.height // patch, job.width // patch
        conditioning["image_ids"] = pipeline_flux.FluxPipeline._prepare_latent_image_ids(
            1, rows, columns, self._device, self._dtype
        )
        key = BatchKey(job.model, "text", (job.width, job.height), job.max_sequence_length, self._is_guided(job))
        plan = self._plan(job, tokens=rows * columns)
        return [
            State(
                batch_key=key,
                seed=seed,
                step=0,
                plan=plan,
                guidance=job.guidance_scale,
                latents=self._noise(seed, rows, columns),
                conditioning=conditioning,
                adapters=job.adapters,
            )
            for seed in job.seeds
        ]

    def denoise(self, states: Sequence[State]) -> Predictions:
        """One forward over [rows, tokens, channels]; a guided batch stacks its negative prompts below its prompts."""
        guided = states[0].batch_key.guided
        copies = 2 if guided else 1
        timesteps = torch.tensor([state.plan.timesteps[state.step] for state in states], device=self._device)
        guidance = None
        if self._guidance == "embedded":
            guidance = torch.tensor([state.guidance for state in states], device=self._device)
        with self.bank.applied([state.adapters for state in states] * copies):
            predicted: Tensor = self._transformer(
                hidden_states=torch.stack([state.latents for state in states] * copies).to(self._dtype),
                timestep=(timesteps.to(self._dtype) / 1000).repeat(copies),
                guidance=guidance,
                pooled_projections=_stack(states, "pooled", guided=guided),
                encoder_hidden_states=_stack(states, "text", guided=guided),
                txt_ids=torch.zeros(states[0].batch_key.text_tokens, 3, device=self._device, dtype=self._dtype),
                img_ids=states[0].conditioning["image_ids"],
                return_dict=False,
            )[0]
        if not guided:
            return Predictions(predicted, None)
        return Predictions(predicted[: len(states)], predicted[len(states) :])

    def advance(self, states: Sequence[State], predictions: Predictions) -> list[State]:
        """FLUX is a flow-matching model, sampled by Euler steps."""
        return samplers.advance(states, predictions)

    def decode(self, states: Sequence[State]) -> list[Tensor]:
        """Unpack the patches, undo the latents' scaling and run the VAE."""
        config = self._vae.config
        width, height = states[0].batch_key.size
        latents = pipeline_flux.FluxPipeline._unpack_latents(
            torch.stack([state.latents for state in states]), height, width, self._pipeline.vae_scale_factor
        )
        latents = latents / config.scaling_factor + (config.shift_factor or 0.0)
        pictures: Tensor = self._vae.decode(latents.to(self._dtype), return_dict=False)[0]
        return list(pictures.float() * 0.5 + 0.5)

    def _is_guided(self, job: Job) -> bool:
        return self._guidance == "true_cfg" and job.guidance_scale > 1

    def _check(self, job: Job) -> None:
        patch = self._pipeline.vae_scale_factor * 2
        if job.width % patch or job.height % patch:
            raise errors.BadRequest(f"width and height must be multiples of {patch}, not {job.width}x{job.height}")
        if job.negative_prompt and self._guidance != "true_cfg":
            raise errors.BadRequest(f"model {job.model} takes no negative prompt")

    def _embed(self, jobs: Sequence[Job]) -> list[dict[str, Tensor]]:
        """Return each job's conditioning; the texts of all jobs with as many tokens are encoded together."""
        found: list[dict[str, Tensor]] = [{} for _ in jobs]
        for tokens in {job.max_sequence_length for job in jobs}:
            asked = [
                (index, prefix, job.tenant_id, text)
                for index, job in enumerate(jobs)
                for prefix, text in (("", job.prompt), ("negative_", job.negative_prompt))
                if job.max_sequence_length == tokens and (not prefix or self._is_guided(job))
            ]
            _, _, tenants, texts = zip(*asked, strict=True)
            embedded = self._embeddings.embed(tenants, texts, compute=self._encoder(tokens), length=tokens)
            for (index, prefix, _, _), tensors in zip(asked, embedded, strict=True):
                found[index] |= {prefix + name: tensor for name, tensor in tensors.items()}
        return found

    def _encoder(self, tokens: int) -> Callable[[list[str]], list[dict[str, Tensor]]]:
        def encode(texts: list[str]) -> list[dict[str, Tensor]]:
            embedded, pooled, _ = self._pipeline.encode_prompt(
                prompt=texts, prompt_2=None, device=self._device, max_sequence_length=tokens
            )
            return [{"text": text, "pooled": short} for text, short in zip(embedded, pooled, strict=True)]

        return encode

    def _plan(self, job: Job, *, tokens: int) -> samplers.Plan:
        """Return the table of FluxPipeline's noise levels, shifted for that many image tokens."""
        config = self._pipeline.scheduler.config
        shift = pipeline_flux.calculate_shift(
            tokens, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
        )
        sigmas = [1 - step / job.steps for step in range(job.steps)]
        return samplers.plan(job.sampler or "flow_euler", job.steps, config=config, mu=shift, sigmas=sigmas)

    def _noise(self, seed: int, rows: int, columns: int) -> Tensor:
        """Draw on the CPU in float32, so that a seed means the same on every device and in every dtype."""
        channels = self._transformer.config.in_channels // 4
        shape = (1, channels, rows * 2, columns * 2)
        drawn = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))
        packed: Tensor = pipeline_flux.FluxPipeline._pack_latents(drawn, *shape)
        return packed[0].to(self._device)


def _stack(states: Sequence[State], name: str, *, guided: bool) -> Tensor:
    prefixes = ("", "negative_") if guided else ("",)
    return torch.stack([state.conditioning[prefix + name] for prefix in prefixes for state in states])
