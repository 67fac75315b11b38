"""Qwen-Image: a two-stream transformer over packed 2x2 latent patches and the states of a language model (Qwen2.5-VL).

In: a directory that `diffusers.QwenImagePipeline` saved, and jobs. Out: pictures equal to what that pipeline, and
`QwenImageImg2ImgPipeline` for jobs with a source picture, make. Captions keep their own lengths; a batch pads them to its
longest one and masks the rest, which moves no other token, so rows of any prompts share a forward. Guidance is
`true_cfg`, after which each token's prediction gets the length of the positive one back, or `none`.
"""

from collections.abc import Sequence

import diffusers
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.pipelines.qwenimage import pipeline_qwenimage
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from darkroom.model_runner.engine import adapters, embeddings, errors, pictures, prompts, samplers, step_cache, tiers
from darkroom.model_runner.engine.job import Guidance, Job, Medium, ModelSpec
from darkroom.model_runner.engine.state import BatchKey, Predictions, State

STRENGTH = 0.6
"""For image to image when the job names none, as the pipeline has it."""


def load(
    spec: ModelSpec,
    *,
    device: torch.device,
    dtype: torch.dtype,
    adapters_resident_max: int,
    embeddings: embeddings.Cache,
) -> "QwenImage":
    """Read the directory and cast its weights; LoadFailed if it is not the kind that its entry says."""
    pipeline = diffusers.QwenImagePipeline.from_pretrained(
        spec.path, dtype=dtype, local_files_only=True, use_safetensors=True
    ).to(device)
    if spec.guidance == "embedded" or pipeline.transformer.config.guidance_embeds:
        raise errors.LoadFailed(f"model {spec.name}: embedded guidance is not supported for Qwen-Image")
    if pipeline.transformer.config.zero_cond_t or pipeline.transformer.config.use_layer3d_rope:
        raise errors.LoadFailed(f"model {spec.name}: editing and layered Qwen-Image models are not supported")
    if pipeline.scheduler.config.stochastic_sampling:
        raise errors.LoadFailed(f"model {spec.name}: its scheduler samples stochastically, which is not supported")
    return QwenImage(spec, pipeline, adapters_resident_max=adapters_resident_max, embeddings=embeddings)


class QwenImage:
    """One resident Qwen-Image model."""

    medium: Medium = "image"

    def __init__(
        self,
        spec: ModelSpec,
        pipeline: diffusers.QwenImagePipeline,
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
        self.bank = adapters.Bank(pipeline.transformer, resident_max=adapters_resident_max)
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
        """One forward over [rows, tokens, channels]; a guided batch stacks its negative prompts below its prompts."""
        names = ("text", "negative_text") if states[0].batch_key.guided else ("text",)
        texts = [state.conditioning[name] for name in names for state in states]
        (width, height), dtype = states[0].batch_key.size, next(transformer.parameters()).dtype
        timesteps = torch.tensor([state.plan.timesteps[state.step] for state in states], device=self._device)
        with self.bank.applied([state.adapters for state in states] * len(names)):
            predicted: Tensor = transformer(
                hidden_states=torch.stack([state.latents for state in states] * len(names)).to(dtype),
                timestep=(timesteps.to(dtype) / 1000).repeat(len(names)),
                encoder_hidden_states=pad_sequence(texts, batch_first=True).to(dtype),
                encoder_hidden_states_mask=self._mask([len(text) for text in texts]),
                img_shapes=[[(1, height // self._patch, width // self._patch)]] * len(texts),
                return_dict=False,
            )[0]
        return Predictions.of(predicted, rows=len(states))

    def advance(self, states: Sequence[State], predictions: Predictions) -> list[State]:
        """Combine guided predictions, give each token the length of its positive one, and take the sampler's step."""
        if predictions.negative is None:
            return step_cache.keep(samplers.advance(states, predictions), predictions)
        positive, negative = predictions.positive.float(), predictions.negative.float()
        scales = torch.tensor([state.guidance for state in states], device=self._device).view(-1, 1, 1)
        combined = negative + scales * (positive - negative)
        lengths = positive.norm(dim=-1, keepdim=True) / combined.norm(dim=-1, keepdim=True)
        return step_cache.keep(samplers.advance(states, Predictions(combined * lengths, None)), predictions)

    def decode(self, states: Sequence[State]) -> list[Tensor]:
        """Unpack the patches, undo the latents' scaling and run the VAE, whose pictures are videos of one frame."""
        width, height = states[0].batch_key.size
        latents = pipeline_qwenimage.QwenImagePipeline._unpack_latents(
            torch.stack([state.latents for state in states]), height, width, self._pipeline.vae_scale_factor
        )
        mean, deviation = self._statistics()
        decoded: Tensor = self._vae.decode((latents * deviation + mean).to(self._vae.dtype), return_dict=False)[0]
        return list(decoded[:, :, 0].float() * 0.5 + 0.5)

    def release(self) -> Sequence[object]:
        """Let go of tier HIGH's copy; the rest are the pipeline's parts."""
        self.tiers.release()
        return list(self._pipeline.components.values())

    @property
    def _patch(self) -> int:
        """Pixels along each side of what becomes one token."""
        factor: int = self._pipeline.vae_scale_factor
        return factor * 2

    def _check(self, job: Job) -> None:
        for field, length in (("width", job.width), ("height", job.height)):
            if length % self._patch:
                raise errors.BadRequest(f"{field}: must be a multiple of {self._patch}, not {length}")
        if job.negative_prompt and self._guidance != "true_cfg":
            raise errors.BadRequest(f"negative_prompt: model {job.model} takes none")
        if job.mask_image is not None:
            raise errors.BadRequest(f"mask_image: model {job.model} takes none")
        if job.strength is not None and job.source_image is None:
            raise errors.BadRequest("source_image: strength needs one")
        pictures.first_step(job, strength=STRENGTH)

    def _encode(self, texts: list[str], *, tokens: int) -> list[dict[str, Tensor]]:
        """Return each text's caption, [its own number of tokens, channels]."""
        padded, mask = self._pipeline.encode_prompt(texts, self._device, max_sequence_length=tokens)
        lengths = [padded.shape[1]] * len(texts) if mask is None else mask.sum(dim=1).tolist()
        return [{"text": caption[: int(length)]} for caption, length in zip(padded, lengths, strict=True)]

    def _states(self, job: Job, text: dict[str, Tensor]) -> list[State]:
        plan = self._plan(job).after(pictures.first_step(job, strength=STRENGTH))
        source: DiagonalGaussianDistribution | None = None
        if job.source_image is not None:
            picture = pictures.read(job.source_image, field="source_image")
            pixels = pictures.pixels(picture, width=job.width, height=job.height)
            source = self._vae.encode(pixels[:, :, None].to(self._device, self._vae.dtype)).latent_dist
        tier = self.tiers.granted(job)
        key = BatchKey(
            job.model,
            "text",
            (job.width, job.height),
            job.max_sequence_length,
            self._is_guided(job),
            tiers.precision(tier),
        )
        states = []
        for seed in job.seeds:
            generator = torch.Generator("cpu").manual_seed(seed)
            states.append(
                State(
                    batch_key=key,
                    seed=seed,
                    step=0,
                    plan=plan,
                    guidance=job.guidance_scale,
                    latents=self._start(job, source, plan, generator),
                    conditioning=text,
                    adapters=job.adapters,
                    noise_rng=generator.get_state() if plan.draws_noise else None,
                    tier=tier,
                )
            )
        return states

    def _plan(self, job: Job) -> samplers.Plan:
        """Return the table of QwenImagePipeline's noise levels, shifted for the picture's size."""
        config = self._pipeline.scheduler.config
        shift = pipeline_qwenimage.calculate_shift(
            (job.width // self._patch) * (job.height // self._patch),
            config.get("base_image_seq_len", 256),
            config.get("max_image_seq_len", 4096),
            config.get("base_shift", 0.5),
            config.get("max_shift", 1.15),
        )
        sigmas = [1 - step / job.steps for step in range(job.steps)]
        return samplers.plan(job.sampler or "flow_euler", job.steps, config=config, mu=shift, sigmas=sigmas)

    def _start(
        self,
        job: Job,
        source: DiagonalGaussianDistribution | None,
        plan: samplers.Plan,
        generator: torch.Generator,
    ) -> Tensor:
        """Draw what a seed draws, on the CPU in float32 and in the pipelines' order: picture, noise."""
        clean = None if source is None else pictures.sample(source, generator)
        factor = self._pipeline.vae_scale_factor
        shape = (1, self._vae.config.z_dim, 1, job.height // factor, job.width // factor)
        noise = torch.randn(shape, generator=generator).to(self._device)
        latents = noise * plan.noise_scale
        if clean is not None:
            mean, deviation = self._statistics()
            latents = plan.noising[0, 0].item() * (clean - mean) / deviation + plan.noising[0, 1].item() * noise
        packed: Tensor = pipeline_qwenimage.QwenImagePipeline._pack_latents(latents, *latents[:, :, 0].shape)
        return packed[0]

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Return the mean and the deviation of latents, each [1, channels, 1, 1, 1], by which the VAE scales them."""
        config = self._vae.config
        mean, deviation = torch.tensor([config.latents_mean, config.latents_std], device=self._device)
        return mean.view(1, -1, 1, 1, 1), deviation.view(1, -1, 1, 1, 1)

    def _mask(self, lengths: list[int]) -> Tensor | None:
        """Return which tokens are a caption's own, [rows, tokens]; None if all are."""
        if len(set(lengths)) == 1:
            return None
        places = torch.arange(max(lengths), device=self._device)
        return places < torch.tensor(lengths, device=self._device)[:, None]

    def _is_guided(self, job: Job) -> bool:
        return self._guidance == "true_cfg" and job.guidance_scale > 1
