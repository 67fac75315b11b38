"""Z-Image: one stream of image patches and caption tokens, the captions from a language model (Qwen3).

In: a directory that `diffusers.ZImagePipeline` saved, and jobs. Out: pictures equal to what that pipeline, and
`ZImageImg2ImgPipeline` for jobs with a source picture, make. The transformer fills captions up to a multiple of 32 tokens
and masks what a batch pads beyond that. Rows share a forward, both tasks alike, if the longer of their two captions fills
up to as many: then a row's sequence is as long in any batch. Guidance is `true_cfg` (Z-Image) or `none` (Z-Image-Turbo).
As in the pipeline, the prediction is `positive + scale * (positive - negative)`, and any scale above 0 makes one.
"""

import math
from collections.abc import Sequence

import diffusers
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.transformers.transformer_z_image import SEQ_MULTI_OF
from diffusers.pipelines.z_image import pipeline_z_image
from torch import Tensor, nn

from darkroom.model_runner.engine import adapters, embeddings, errors, pictures, prompts, samplers, step_cache, tiers
from darkroom.model_runner.engine.job import Guidance, Job, Medium, ModelSpec
from darkroom.model_runner.engine.state import BatchKey, Predictions, State

STRENGTH = 0.6
"""For image to image when the job names none, as the pipeline has it."""
_ROW_BY_ROW = ("layers", "noise_refiner", "context_refiner", "t_embedder", "all_final_layer")
"""What of the transformer sees a batch as [rows, ...]. The two embedders see all rows' tokens in one sequence, so that an
adapter of theirs could not tell whose they are."""


def load(
    spec: ModelSpec,
    *,
    device: torch.device,
    dtype: torch.dtype,
    adapters_resident_max: int,
    embeddings: embeddings.Cache,
) -> "ZImage":
    """Read the directory and cast its weights; LoadFailed if it is not the kind that its entry says."""
    if spec.guidance == "embedded":
        raise errors.LoadFailed(f"model {spec.name}: Z-Image has no embedded guidance")
    pipeline = diffusers.ZImagePipeline.from_pretrained(
        spec.path, dtype=dtype, local_files_only=True, use_safetensors=True
    ).to(device)
    if pipeline.scheduler.config.stochastic_sampling:
        raise errors.LoadFailed(f"model {spec.name}: its scheduler samples stochastically, which is not supported")
    return ZImage(spec, pipeline, adapters_resident_max=adapters_resident_max, embeddings=embeddings)


class ZImage:
    """One resident Z-Image model."""

    medium: Medium = "image"

    def __init__(
        self,
        spec: ModelSpec,
        pipeline: diffusers.ZImagePipeline,
        *,
        adapters_resident_max: int,
        embeddings: embeddings.Cache,
    ) -> None:
        self._guidance: Guidance = spec.guidance
        self._pipeline = pipeline
        self.tiers = tiers.Tiers(pipeline.transformer.eval())
        self._vae = pipeline.vae.eval()
        self._device: torch.device = pipeline.transformer.device
        self._embeddings = embeddings
        linears = nn.ModuleDict({name: getattr(pipeline.transformer, name) for name in _ROW_BY_ROW})
        self.bank = adapters.Bank(linears, resident_max=adapters_resident_max)
        self.sizing: pictures.Sizing = pictures.as_asked

    def prepare(self, jobs: Sequence[Job]) -> list[list[State]]:
        """Encode the prompts of all jobs together, then each job's picture, and draw each seed's noise."""
        for job in jobs:
            self._check(job)
        texts = prompts.embed(jobs, cache=self._embeddings, encode=self._encode, is_guided=self._is_guided)
        return [self._states(job, text) for job, text in zip(jobs, texts, strict=True)]

    def denoise(self, states: Sequence[State]) -> Predictions:
        """Predict as the rows' tier has it."""
        return self.tiers.denoise(states, self._forward)

    def _forward(self, transformer: nn.Module, states: Sequence[State]) -> Predictions:
        """One forward over lists of pictures and captions; guided rows come again with their negative prompts."""
        names = ("text", "negative_text") if states[0].batch_key.guided else ("text",)
        dtype = next(transformer.parameters()).dtype
        pictured = [state.latents[:, None].to(dtype) for state in states] * len(names)
        timesteps = torch.tensor([state.plan.timesteps[state.step] for state in states], device=self._device)
        with self.bank.applied([state.adapters for state in states] * len(names)):
            predicted: list[Tensor] = transformer(
                pictured,
                ((1000 - timesteps) / 1000).repeat(len(names)),
                [state.conditioning[name].to(dtype) for name in names for state in states],
                return_dict=False,
            )[0]
        velocities = -torch.stack(predicted)[:, :, 0].float()  # the model says where to go from noise to picture
        return Predictions.of(velocities, rows=len(states))

    def advance(self, states: Sequence[State], predictions: Predictions) -> list[State]:
        """Take the sampler's step."""
        return step_cache.keep(samplers.advance(states, predictions), predictions)

    def decode(self, states: Sequence[State]) -> list[Tensor]:
        """Undo the latents' scaling and run the VAE."""
        config = self._vae.config
        latents = torch.stack([state.latents for state in states]).to(self._vae.dtype)
        decoded: Tensor = self._vae.decode(latents / config.scaling_factor + config.shift_factor, return_dict=False)[0]
        return list(decoded.float() * 0.5 + 0.5)

    def release(self) -> Sequence[object]:
        """Let go of tier HIGH's copy; the rest are the pipeline's parts, and what the embedder of positions has computed."""
        self.tiers.release()
        return [*self._pipeline.components.values(), vars(self._pipeline.transformer.rope_embedder)]

    def _check(self, job: Job) -> None:
        patch = self._pipeline.vae_scale_factor * 2
        for field, length in (("width", job.width), ("height", job.height)):
            if length % patch:
                raise errors.BadRequest(f"{field}: must be a multiple of {patch}, not {length}")
        if job.negative_prompt and self._guidance != "true_cfg":
            raise errors.BadRequest(f"negative_prompt: model {job.model} takes none")
        if job.mask_image is not None:
            raise errors.BadRequest(f"mask_image: model {job.model} takes none")
        if job.strength is not None and job.source_image is None:
            raise errors.BadRequest("source_image: strength needs one")
        pictures.first_step(job, strength=STRENGTH)

    def _encode(self, texts: list[str], *, tokens: int) -> list[dict[str, Tensor]]:
        """Return each text's caption, [its own number of tokens, channels]."""
        encoded = self._pipeline._encode_prompt(list(texts), self._device, max_sequence_length=tokens)
        return [{"text": caption} for caption in encoded]

    def _states(self, job: Job, text: dict[str, Tensor]) -> list[State]:
        plan = self._plan(job).after(pictures.first_step(job, strength=STRENGTH))
        source: DiagonalGaussianDistribution | None = None
        if job.source_image is not None:
            picture = pictures.read(job.source_image, field="source_image")
            pixels = pictures.pixels(picture, width=job.width, height=job.height)
            source = self._vae.encode(pixels.to(self._device, self._vae.dtype)).latent_dist
        tokens = max(math.ceil(len(caption) / SEQ_MULTI_OF) * SEQ_MULTI_OF for caption in text.values())
        tier = self.tiers.granted(job)
        key = BatchKey(job.model, "text", (job.width, job.height), tokens, self._is_guided(job), tiers.precision(tier))
        guidance = job.guidance_scale + 1  # samplers count from the negative prediction, this model from the other
        states = []
        for seed in job.seeds:
            generator = torch.Generator("cpu").manual_seed(seed)
            states.append(
                State(
                    batch_key=key,
                    seed=seed,
                    step=0,
                    plan=plan,
                    guidance=guidance,
                    latents=self._start(job, source, plan, generator),
                    conditioning=text,
                    adapters=job.adapters,
                    noise_rng=generator.get_state() if plan.draws_noise else None,
                    tier=tier,
                )
            )
        return states

    def _plan(self, job: Job) -> samplers.Plan:
        """Return the table of ZImagePipeline's noise levels, shifted for the picture's size where the model does so."""
        config = self._pipeline.scheduler.config
        patch = self._pipeline.vae_scale_factor * 2
        shift = pipeline_z_image.calculate_shift(
            (job.width // patch) * (job.height // patch),
            config.get("base_image_seq_len", 256),
            config.get("max_image_seq_len", 4096),
            config.get("base_shift", 0.5),
            config.get("max_shift", 1.15),
        )
        sigmas = pipeline_z_image.get_default_z_image_sigmas(job.steps)
        return samplers.plan(job.sampler or "flow_euler", job.steps, config=config, mu=shift, sigmas=sigmas)

    def _start(
        self,
        job: Job,
        source: DiagonalGaussianDistribution | None,
        plan: samplers.Plan,
        generator: torch.Generator,
    ) -> Tensor:
        """Draw what a seed draws, on the CPU in float32 and in the pipelines' order: picture, noise."""
        factor = self._pipeline.vae_scale_factor
        clean = None if source is None else pictures.sample(source, generator)[0]
        shape = (self._pipeline.transformer.in_channels, job.height // factor, job.width // factor)
        noise = torch.randn(shape, generator=generator).to(self._device)
        if clean is None:
            return noise * plan.noise_scale
        config = self._vae.config
        scaled: Tensor = (clean - config.shift_factor) * config.scaling_factor
        noised: Tensor = plan.noising[0, 0].item() * scaled + plan.noising[0, 1].item() * noise
        return noised

    def _is_guided(self, job: Job) -> bool:
        return self._guidance == "true_cfg" and job.guidance_scale > 0
