"""Wan: a transformer over video latents, conditioned by UMT5, and for image to video by the first frame.

In: a directory that `WanPipeline` or `WanImageToVideoPipeline` saved (2.1, or 2.2 with two transformers, of which one works
above a noise level and the other below), and jobs. Out: videos equal to those pipelines'. Wan 2.2's 5B (a time for each
token) is refused; the family `pipeline` runs it.
"""

import itertools
import json
from collections.abc import Sequence
from typing import Any

import diffusers
import torch
from torch import Tensor

from darkroom.model_runner.engine import adapters, embeddings, errors, pictures, prompts, samplers, step_cache, tiers
from darkroom.model_runner.engine.job import Job, Medium, ModelSpec, Picture
from darkroom.model_runner.engine.state import BatchKey, Predictions, State

_CLASSES = {"WanPipeline": diffusers.WanPipeline, "WanImageToVideoPipeline": diffusers.WanImageToVideoPipeline}


def load(
    spec: ModelSpec,
    *,
    device: torch.device,
    dtype: torch.dtype,
    adapters_resident_max: int,
    embeddings: embeddings.Cache,
) -> "Wan":
    """Read the directory; the VAE and the image encoder stay in float32, as their makers run them."""
    index = json.loads((spec.path / "model_index.json").read_text(encoding="utf-8"))
    pipeline_class = _CLASSES.get(index["_class_name"])
    if pipeline_class is None or index.get("expand_timesteps"):
        raise errors.LoadFailed(f"model {spec.name}: family wan serves {', '.join(_CLASSES)} with one time for a video")
    if spec.guidance == "embedded":
        raise errors.LoadFailed(f"model {spec.name}: guidance embedded does not match its transformer")
    dtypes = {"default": dtype, "vae": torch.float32, "image_encoder": torch.float32}
    pipeline = pipeline_class.from_pretrained(spec.path, dtype=dtypes, local_files_only=True, use_safetensors=True)
    return Wan(spec, pipeline.to(device), adapters_resident_max=adapters_resident_max, embeddings=embeddings)


class Wan:
    """One resident Wan model."""

    medium: Medium = "video"

    def __init__(
        self, spec: ModelSpec, pipeline: Any, *, adapters_resident_max: int, embeddings: embeddings.Cache
    ) -> None:
        self._guided = spec.guidance == "true_cfg"
        self._pipeline = pipeline
        self._embeddings = embeddings
        self._task = "image" if isinstance(pipeline, diffusers.WanImageToVideoPipeline) else "text"
        self._transformers = [part.eval() for part in (pipeline.transformer, pipeline.transformer_2) if part]
        self._device: torch.device = self._transformers[0].device
        self._dtype: torch.dtype = self._transformers[0].dtype
        train = pipeline.scheduler.config.num_train_timesteps
        self._boundary = (pipeline.config.boundary_ratio or 0.0) * train
        self.tiers = tiers.Tiers(self._transformers[0])
        self.bank = adapters.Bank(self._transformers[0], resident_max=adapters_resident_max)
        self._sees_picture = self._transformers[0].config.image_dim is not None  # by CLIP, which resizes for itself
        self.sizing: pictures.Sizing = pictures.as_sent if self._sees_picture else pictures.as_asked

    def prepare(self, jobs: Sequence[Job]) -> list[list[State]]:
        """Encode the texts of all jobs at once, then each job's first frame; draw each seed's noise."""
        for job in jobs:
            self._check(job)
        texts = prompts.embed(jobs, cache=self._embeddings, encode=self._encode, is_guided=self._is_guided)
        return [self._states(job, text) for job, text in zip(jobs, texts, strict=True)]

    def denoise(self, states: Sequence[State]) -> Predictions:
        """One forward over [rows, channels, frames, height, width]; where both transformers are wanted, one of each."""
        if len(self._transformers) == 1:
            return self.tiers.denoise(states, self._forward)
        low = [state.plan.timesteps[state.step] < self._boundary for state in states]
        if len(set(low)) == 1:
            return self._forward(self._transformers[low[0]], states)
        chosen = [[index for index, is_low in enumerate(low) if is_low == wanted] for wanted in (False, True)]
        parts = [
            self._forward(transformer, [states[index] for index in rows])
            for transformer, rows in zip(self._transformers, chosen, strict=True)
        ]
        order = torch.tensor(list(itertools.chain(*chosen)), device=self._device).argsort()
        negatives = [part.negative for part in parts if part.negative is not None]
        positive = torch.cat([part.positive for part in parts])[order]
        return Predictions(positive, torch.cat(negatives)[order] if negatives else None)

    def advance(self, states: Sequence[State], predictions: Predictions) -> list[State]:
        """Wan is a flow-matching model; its own sampler is UniPC."""
        return step_cache.keep(samplers.advance(states, predictions), predictions)

    def decode(self, states: Sequence[State]) -> list[Tensor]:
        """Undo the latents' scaling and run the VAE, one video after another: its memory is the model's largest need."""
        vae = self._pipeline.vae
        mean, deviation = (
            torch.tensor(values, device=self._device).view(1, -1, 1, 1, 1)
            for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        videos = (vae.decode(state.latents[None] * deviation + mean, return_dict=False)[0] for state in states)
        return [video[0].transpose(0, 1) * 0.5 + 0.5 for video in videos]

    def release(self) -> Sequence[object]:
        """Let go of tier HIGH's copy; the rest are the pipeline's parts."""
        self.tiers.release()
        return list(self._pipeline.components.values())

    def _check(self, job: Job) -> None:
        spatial, temporal = self._pipeline.vae_scale_factor_spatial, self._pipeline.vae_scale_factor_temporal
        patch = spatial * self._transformers[0].config.patch_size[1]
        for field, length in (("width", job.width), ("height", job.height)):
            if length % patch:
                raise errors.BadRequest(f"{field}: must be a multiple of {patch}, not {length}")
        if job.frames % temporal != 1:
            raise errors.BadRequest(f"num_frames: must be 1 plus a multiple of {temporal}, not {job.frames}")
        if job.negative_prompt and not self._guided:
            raise errors.BadRequest(f"negative_prompt: model {job.model} takes none")
        if (job.source_image is None) == (self._task == "image"):
            needed = "needs" if self._task == "image" else "takes no"
            raise errors.BadRequest(f"source_image: model {job.model} {needed} first frame")
        for field, given in (("mask_image", job.mask_image), ("strength", job.strength)):
            if given is not None:
                raise errors.BadRequest(f"{field}: model {job.model} takes none")

    def _encode(self, texts: list[str], *, tokens: int) -> list[dict[str, Tensor]]:
        encoded, _ = self._pipeline.encode_prompt(
            texts, do_classifier_free_guidance=False, max_sequence_length=tokens, device=self._device
        )
        return [{"text": row} for row in encoded.to(self._dtype)]

    def _states(self, job: Job, conditioning: dict[str, Tensor]) -> list[State]:
        config = self._pipeline.scheduler.config
        plan = samplers.plan(job.sampler or samplers.default_name(config), job.steps, config=config)
        if job.source_image is not None:
            conditioning |= self._first_frame(job, job.source_image)
        size, tokens = (job.width, job.height, job.frames), job.max_sequence_length
        tier = self.tiers.granted(job) if len(self._transformers) == 1 else "LOSSLESS"  # two share no cache
        key = BatchKey(job.model, self._task, size, tokens, self._is_guided(job), tiers.precision(tier))
        return [
            State(
                batch_key=key,
                seed=seed,
                step=0,
                plan=plan,
                guidance=job.guidance_scale,
                latents=noise * plan.noise_scale,
                conditioning=conditioning,
                adapters=job.adapters,
                noise_rng=generator.get_state() if plan.draws_noise else None,
                tier=tier,
            )
            for seed in job.seeds
            for generator in [torch.Generator("cpu").manual_seed(seed)]
            for noise in [self._noise(job, generator)]
        ]

    def _is_guided(self, job: Job) -> bool:
        return self._guided and job.guidance_scale > 1

    def _noise(self, job: Job, generator: torch.Generator) -> Tensor:
        """Draw on the CPU in float32, so that a seed means the same on every device and in every dtype."""
        spatial, temporal = self._pipeline.vae_scale_factor_spatial, self._pipeline.vae_scale_factor_temporal
        frames = (job.frames - 1) // temporal + 1
        shape = (self._pipeline.vae.config.z_dim, frames, job.height // spatial, job.width // spatial)
        return torch.randn(shape, generator=generator).to(self._device)

    def _first_frame(self, job: Job, file: Picture) -> dict[str, Tensor]:
        """Return what the pipeline makes of the picture: latents with their mask, and for Wan 2.1 CLIP's embedding."""
        picture = pictures.read(file, field="source_image")
        size = {"width": job.width, "height": job.height}
        pixels = pictures.pixels(picture, **size).to(self._device)
        nothing = torch.zeros(1, device=self._device)
        _, condition = self._pipeline.prepare_latents(
            pixels,
            1,
            num_frames=job.frames,
            dtype=torch.float32,
            device=self._device,
            latents=nothing,  # those of each seed are drawn apart
            **size,
        )
        seen = {"first_frame": condition[0]}
        if self._sees_picture:
            seen["image"] = self._pipeline.encode_image(picture, self._device)[0].to(self._dtype)
        return seen

    def _forward(self, transformer: Any, states: Sequence[State]) -> Predictions:
        guided = states[0].batch_key.guided
        rows = list(states) * (2 if guided else 1)
        texts = [state.conditioning["text"] for state in states]
        if guided:
            texts += [state.conditioning["negative_text"] for state in states]
        latents = torch.stack([_seen(state) for state in rows])
        images = [state.conditioning["image"] for state in rows if "image" in state.conditioning]
        dtype = transformer.dtype  # not the resident's own in tier HIGH
        with self.bank.applied([state.adapters for state in rows]):
            predicted: Tensor = transformer(
                hidden_states=latents.to(dtype),
                timestep=torch.tensor([state.plan.timesteps[state.step] for state in rows], device=self._device),
                encoder_hidden_states=torch.stack(texts).to(dtype),
                encoder_hidden_states_image=torch.stack(images).to(dtype) if images else None,
                return_dict=False,
            )[0]
        return Predictions.of(predicted, rows=len(states))


def _seen(state: State) -> Tensor:
    """Return the latents as the transformer sees them: the first frame's beside them."""
    latents = state.latents * state.plan.input_scales[state.step]
    first_frame = state.conditioning.get("first_frame")
    return latents if first_frame is None else torch.cat([latents, first_frame])
