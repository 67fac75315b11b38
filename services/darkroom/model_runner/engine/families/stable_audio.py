"""Stable Audio: a transformer over the latents of one window of sound, conditioned by T5 and by where the sound ends in it.

In: a directory that `diffusers.StableAudioPipeline` saved, and jobs. Out: sounds equal to that pipeline's; with the cosine
scheduler's noise drawn by us (`samplers.edm` says why). The whole window is computed whatever length is asked for, so sounds of
all lengths share a batch, and the rest is cut off at the end.
"""

from collections.abc import Sequence
from typing import Any

import diffusers
import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import Tensor

from darkroom.model_runner.engine import adapters, embeddings, errors, pictures, prompts, samplers, step_cache, tiers
from darkroom.model_runner.engine.job import Job, Medium, ModelSpec
from darkroom.model_runner.engine.samplers import edm
from darkroom.model_runner.engine.state import BatchKey, Predictions, State


def load(
    spec: ModelSpec,
    *,
    device: torch.device,
    dtype: torch.dtype,
    adapters_resident_max: int,
    embeddings: embeddings.Cache,
) -> "StableAudio":
    """Read the directory; the VAE stays in float32, since what it rounds is heard."""
    if spec.guidance == "embedded":
        raise errors.LoadFailed(f"model {spec.name}: guidance embedded does not match its transformer")
    # The saved scheduler's class may need a package that only its noise would need; its configuration is all that is used.
    config = diffusers.EDMDPMSolverMultistepScheduler.load_config(spec.path / "scheduler")
    pipeline = diffusers.StableAudioPipeline.from_pretrained(
        spec.path,
        scheduler=None,
        dtype={"default": dtype, "vae": torch.float32},
        local_files_only=True,
        use_safetensors=True,
    ).to(device)
    return StableAudio(spec, pipeline, config, adapters_resident_max=adapters_resident_max, embeddings=embeddings)


class StableAudio:
    """One resident Stable Audio model."""

    medium: Medium = "audio"

    def __init__(
        self,
        spec: ModelSpec,
        pipeline: diffusers.StableAudioPipeline,
        scheduler: dict[str, Any],
        *,
        adapters_resident_max: int,
        embeddings: embeddings.Cache,
    ) -> None:
        self._guided = spec.guidance == "true_cfg"
        self._pipeline = pipeline
        self._scheduler = scheduler
        self._embeddings = embeddings
        self._transformer = pipeline.transformer.eval()
        self._vae = pipeline.vae.eval()
        self._device: torch.device = pipeline.transformer.device
        self._window = self._transformer.config.sample_size
        rotary = get_1d_rotary_pos_embed(
            pipeline.rotary_embed_dim, self._window + 1, use_real=True, repeat_interleave_real=False
        )  # one more than the latents: the lengths are a token before them
        self._rotary = tuple(part.to(self._device) for part in rotary)
        self.samples_per_second: int = self._vae.config.sampling_rate
        self.tiers = tiers.Tiers(self._transformer)
        self.bank = adapters.Bank(self._transformer, resident_max=adapters_resident_max)
        self.sizing: pictures.Sizing = pictures.as_sent

    def prepare(self, jobs: Sequence[Job]) -> list[list[State]]:
        """Encode the prompts of all jobs at once; draw each seed's noise."""
        for job in jobs:
            self._check(job)
        texts = prompts.embed(
            jobs,
            cache=self._embeddings,
            encode=self._encode,
            is_guided=lambda job: self._is_guided(job) and bool(job.negative_prompt),
        )
        return [self._states(job, text) for job, text in zip(jobs, texts, strict=True)]

    def denoise(self, states: Sequence[State]) -> Predictions:
        """Predict as the rows' tier has it."""
        return self.tiers.denoise(states, self._forward)

    def _forward(self, transformer: Any, states: Sequence[State]) -> Predictions:
        """One forward over [rows, channels, window]; a guided batch stacks its negative prompts below its prompts."""
        guided = states[0].batch_key.guided
        rows = list(states) * (2 if guided else 1)
        texts = [state.conditioning["text"] for state in states]
        if guided:
            texts += [state.conditioning["negative_text"] for state in states]
        latents = torch.stack([state.latents * state.plan.input_scales[state.step] for state in rows])
        dtype = transformer.dtype  # not the resident's own in tier HIGH
        with self.bank.applied([state.adapters for state in rows]):
            predicted: Tensor = transformer(
                latents.to(dtype),
                torch.tensor([state.plan.timesteps[state.step] for state in rows], device=self._device),
                encoder_hidden_states=torch.stack(texts).to(dtype),
                global_hidden_states=torch.stack([state.conditioning["lengths"] for state in rows]).to(dtype),
                rotary_embedding=self._rotary,
                return_dict=False,
            )[0]
        return Predictions.of(predicted, rows=len(states))

    def advance(self, states: Sequence[State], predictions: Predictions) -> list[State]:
        """Stable Audio is sampled by DPM-Solver++ over EDM's noise levels."""
        return step_cache.keep(samplers.advance(states, predictions), predictions)

    def decode(self, states: Sequence[State]) -> list[Tensor]:
        """Run the VAE, one window after another, and cut each sound to its length."""
        return [
            self._vae.decode(state.latents[None]).sample[0, :, : int(state.conditioning["samples"])] for state in states
        ]

    def release(self) -> Sequence[object]:
        """Let go of tier HIGH's copy; the rest are the pipeline's parts, and the angles of its positions."""
        self.tiers.release()
        return [*self._pipeline.components.values(), self._rotary]

    def _check(self, job: Job) -> None:
        window_us = self._window * self._vae.hop_length * 1_000_000 // self.samples_per_second
        if not 0 < job.duration_us <= window_us:
            raise errors.BadRequest(f"duration_us: must be from 1 to {window_us}, not {job.duration_us}")
        if job.negative_prompt and not self._guided:
            raise errors.BadRequest(f"negative_prompt: model {job.model} takes none")
        for field, given in (*job.files.items(), ("strength", job.strength)):
            if given is not None:
                raise errors.BadRequest(f"{field}: model {job.model} takes none")

    def _encode(self, texts: list[str], *, tokens: int) -> list[dict[str, Tensor]]:
        """Return each text's embedding, [tokens, width], zeros beyond its end; their number is the model's own."""
        return [{"text": row} for row in self._pipeline.encode_prompt(texts, self._device, False)]

    def _is_guided(self, job: Job) -> bool:
        return self._guided and job.guidance_scale > 1

    def _states(self, job: Job, text: dict[str, Tensor]) -> list[State]:
        tier = self.tiers.granted(job)
        plan = edm.plan(job.sampler or edm.default_name(self._scheduler), job.steps, config=self._scheduler)
        conditioning = self._conditioning(job, text)
        tokens = len(conditioning["text"])
        key = BatchKey(job.model, "text", (), tokens, self._is_guided(job), tiers.precision(tier))
        return [
            State(
                batch_key=key,
                seed=seed,
                step=0,
                plan=plan,
                guidance=job.guidance_scale,
                latents=self._noise(generator) * plan.noise_scale,
                conditioning=conditioning,
                adapters=job.adapters,
                noise_rng=generator.get_state() if plan.draws_noise else None,
                tier=tier,
            )
            for seed in job.seeds
            for generator in [torch.Generator("cpu").manual_seed(seed)]
        ]

    def _conditioning(self, job: Job, text: dict[str, Tensor]) -> dict[str, Tensor]:
        """Append the start and the end to the text; without a negative prompt all of it is zeros, as the pipeline does."""
        seconds = job.duration_us / 1_000_000
        start, end = self._pipeline.encode_duration(0.0, seconds, self._device, False, 1)
        named = {
            "text": torch.cat([text["text"], start[0], end[0]]),
            "lengths": torch.cat([start[0], end[0]], dim=1),
            "samples": torch.tensor(int(seconds * self.samples_per_second)),
        }
        if "negative_text" in text:
            named["negative_text"] = torch.cat([text["negative_text"], start[0], end[0]])
        elif self._is_guided(job):
            named["negative_text"] = torch.zeros_like(named["text"])
        return named

    def _noise(self, generator: torch.Generator) -> Tensor:
        """Draw on the CPU in float32, so that a seed means the same on every device and in every dtype."""
        shape = (self._transformer.config.in_channels, self._window)
        return torch.randn(shape, generator=generator).to(self._device)
