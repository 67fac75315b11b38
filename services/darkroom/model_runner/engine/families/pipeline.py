"""The generic family: any diffusers pipeline, run whole, each generation on its own.

In: a directory that any pipeline class of diffusers saved, and jobs. Out: what that pipeline makes of them. Its call runs on a
thread that rests at the end of each step (where the pipeline would move its progress bar) until the loop gives it the next one;
so the loop orders, charges and cancels its steps like all others, and nothing here shares a forward. What has begun cannot
be saved: most of it is the pipeline's local variables.
"""

import copy
import dataclasses
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor, nn

from darkroom.model_runner.engine import adapters, embeddings, errors, pictures, samplers, stepwise, tiers, twins
from darkroom.model_runner.engine.job import Job, ModelSpec, Picture, Tier
from darkroom.model_runner.engine.state import BatchKey, Predictions, State

_DRAFT_THRESHOLD = 0.1  # of first-block residuals' relative change; diffusers' own default of 0.05 skips little
_SECONDS = ("audio_end_in_s", "audio_length_in_s", "audio_duration")
_RESULTS = {"image": "images", "video": "frames", "audio": "audios"}
_NO_PLAN = samplers.Plan(
    sampler="",
    timesteps=(),
    input_scales=(),
    matrices=np.zeros((0, 1, 3)),
    noise_scale=1.0,
    noising=np.zeros((0, 2)),
)


def load(
    spec: ModelSpec,
    *,
    device: torch.device,
    dtype: torch.dtype,
    adapters_resident_max: int,
    embeddings: embeddings.Cache,
) -> "Pipeline":
    """Read the directory by the pipeline class that it names; code of its own is not run."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        spec.path, dtype=dtype, local_files_only=True, use_safetensors=True
    )
    return Pipeline(spec, pipeline.to(device))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Running(State):
    """A state whose other half is a thread."""

    run: stepwise.Run
    total: int

    @property
    def steps_total(self) -> int:
        """As the job says; a pipeline that takes fewer or more is done when it says so."""
        return self.total

    @property
    def is_portable(self) -> bool:
        """No."""
        return False


class Pipeline:
    """One resident pipeline."""

    def __init__(self, spec: ModelSpec, pipeline: Any) -> None:
        self.medium = spec.medium
        self.bank = adapters.Bank(
            nn.Module(), resident_max=1
        )  # so every LoRA is refused: their names differ by pipeline
        self.tiers = tiers.Tiers(nn.Module())  # a copy in fewer bits, of what, is not known; drafts are diffusers' own
        self.sizing: pictures.Sizing = pictures.as_sent
        self._spec = spec
        self._pipeline = pipeline
        self._parameters = inspect.signature(pipeline.__call__).parameters
        self._has_cache = hasattr(getattr(pipeline, "transformer", None), "enable_cache")

    @property
    def samples_per_second(self) -> int:
        """Of the part that makes the sound."""
        parts = [self._pipeline.components.get(name) for name in ("vocoder", "vae")]
        return next(int(part.config.sampling_rate) for part in parts if part is not None)

    def prepare(self, jobs: Sequence[Job]) -> list[list[State]]:
        """Check what can be checked; the pipeline encodes texts as part of its first step."""
        return [[self._state(job, seed) for seed in job.seeds] for job in jobs]

    def denoise(self, states: Sequence[State]) -> Predictions:
        """Run each call to its next rest, one after another; tell for which this was the last step."""
        last = []
        for state in states:
            assert isinstance(state, _Running)
            try:
                last.append(state.run.step())
            except ValueError as error:
                if state.step == 0:  # pipelines check their arguments by themselves
                    raise errors.BadRequest(f"model {self._spec.name}: {error}") from error
                raise
        return Predictions(torch.tensor(last), None)

    def advance(self, states: Sequence[State], predictions: Predictions) -> list[State]:
        """Count the step."""
        return [
            dataclasses.replace(state, step=state.steps_total if last else min(state.step + 1, state.steps_total - 1))
            for state, last in zip(states, predictions.positive.tolist(), strict=True)
        ]

    def decode(self, states: Sequence[State]) -> list[Tensor]:
        """Let each call end."""
        media = []
        for state in states:
            assert isinstance(state, _Running)
            made = torch.as_tensor(getattr(state.run.finish(), _RESULTS[self.medium])[0])
            media.append(made[None] if self.medium == "audio" and made.ndim == 1 else made)
        return media

    def release(self) -> Sequence[object]:
        """Return the pipeline's parts; no call is under way then, since its states are not portable."""
        return list(self._pipeline.components.values())

    def _state(self, job: Job, seed: int) -> State:
        arguments, guided = self._arguments(job), self._spec.guidance == "true_cfg" and job.guidance_scale > 1
        tier: Tier = "DRAFT" if job.tier == "DRAFT" and self._has_cache else "LOSSLESS"
        sizes = {"image": (job.width, job.height), "video": (job.width, job.height, job.frames), "audio": ()}

        def call(bar: Callable[..., stepwise.Bar]) -> Any:
            pipeline = self._own(tier)
            pipeline.progress_bar = bar
            return pipeline(**arguments, generator=torch.Generator("cpu").manual_seed(seed))

        return _Running(
            batch_key=BatchKey(job.model, "whole", sizes[self.medium], 0, guided, tiers.precision(tier)),
            seed=seed,
            step=0,
            plan=_NO_PLAN,
            guidance=job.guidance_scale,
            latents=torch.zeros(0),
            conditioning={},
            adapters=job.adapters,
            tier=tier,
            run=stepwise.Run(call),
            total=job.steps,
        )

    def _own(self, tier: Tier) -> Any:
        """Return the pipeline with the same weights and a memory of its own, as calls that take turns need."""
        own = copy.copy(self._pipeline)
        if (scheduler := getattr(own, "scheduler", None)) is not None:
            own.scheduler = type(scheduler).from_config(scheduler.config)
        if tier == "DRAFT":
            own.transformer = twins.twin(own.transformer)
            own.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=_DRAFT_THRESHOLD))
        return own

    def _arguments(self, job: Job) -> dict[str, Any]:
        """Return the job in the pipeline's words; BadRequest for what it has no word for."""
        true_cfg = self._spec.guidance == "true_cfg"
        scale = "true_cfg_scale" if true_cfg and "true_cfg_scale" in self._parameters else "guidance_scale"
        if job.negative_prompt and not true_cfg:
            raise errors.BadRequest(f"negative_prompt: model {job.model} takes none")
        if job.sampler:
            raise errors.BadRequest(f"sampler: model {job.model} knows only its own")
        optional = {
            "width": job.width or None,
            "height": job.height or None,
            "num_frames": job.frames if self.medium == "video" else None,
            "frame_rate": job.frames_per_second or None,
            "num_inference_steps": job.steps,
            "max_sequence_length": job.max_sequence_length,
            "output_type": "pt",
            scale: job.guidance_scale,
        } | {name: job.duration_us / 1e6 for name in _SECONDS if self.medium == "audio"}
        wanted: dict[str, tuple[str, Any]] = {
            "prompt": ("prompt", job.prompt),
            "negative_prompt": ("negative_prompt", job.negative_prompt if true_cfg else None),
            "image": ("source_image", self._picture(job, job.source_image, "source_image")),
            "mask_image": ("mask_image", self._picture(job, job.mask_image, "mask_image")),
            "strength": ("strength", job.strength),
        }
        if own := sorted({"generator", *optional, *wanted} & set(job.extras)):
            raise errors.BadRequest(f"extras.{own[0]}: is not for extras to say")
        wanted |= {name: (f"extras.{name}", value) for name, value in job.extras.items()}
        for name, (field, value) in wanted.items():
            if value not in (None, "") and name not in self._parameters:
                raise errors.BadRequest(f"{field}: the pipeline of model {job.model} does not take it")
        given = optional | {name: value for name, (_, value) in wanted.items()}
        return {name: value for name, value in given.items() if name in self._parameters and value is not None}

    def _picture(self, job: Job, file: Picture | None, field: str) -> Any:
        if file is None:
            return None
        picture = pictures.read(file, field=field)
        sized = "height" in self._parameters or not job.width
        return picture if sized else picture.resize((job.width, job.height))
