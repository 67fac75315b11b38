"""Teaches the transformer and the text encoders of pocket-image: from words and noise to latents.

In: networks whose autoencoder is taught. Out: their weights averaged over training (EMA), taught by flow matching:
with x = (1 - t) * latents + t * noise, predict noise - latents. Times are logit-normal; a tenth of the prompts is
dropped, so that the empty prompt can serve as the negative one. Next: `export` writes the averaged weights.

Each step draws from its own seed and the whole state is kept in one safetensors file, so a training that was stopped
goes on as if it had not been.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import diffusers
import safetensors.torch
import torch

from darkroom.model_runner.pocket import autoencoder, bindings, curriculum, networks, parts, scenes

BATCH = 64
DROPPED_SHARE = 0.1
AVERAGE_DECAY = 0.998
"""Decay of the averaged weights a step (half forgotten after 350 steps); lower at the start."""

CHECKPOINT_STEPS = 250


class Lessons(NamedTuple):
    """What is learnt from: packed latents N x tokens x channels, and N x TOKENS_MAX each: CLIP's and T5's tokens, labels."""

    latents: torch.Tensor
    clip_tokens: torch.Tensor
    t5_tokens: torch.Tensor
    labels: torch.Tensor


class Batch(NamedTuple):
    """One step's questions (noisy latents, their times, tokens) and the answers (velocity, the tokens' labels)."""

    noisy: torch.Tensor
    times: torch.Tensor
    clip_tokens: torch.Tensor
    t5_tokens: torch.Tensor
    velocity: torch.Tensor
    labels: torch.Tensor


def tokens(nets: networks.Networks, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token numbers of prompts for CLIP and for T5, each N x TOKENS_MAX, as FluxPipeline makes them."""
    clip, t5 = (
        tokenizer(prompts, padding="max_length", max_length=networks.TOKENS_MAX, truncation=True, return_tensors="pt")
        for tokenizer in (nets.tokenizer, nets.tokenizer_2)
    )
    return clip.input_ids, t5.input_ids


def prepare(nets: networks.Networks, stage: curriculum.Stage, *, report: Callable[[int, int, float], None]) -> Lessons:
    """Draw and encode the scenes that a stage shows; `report` is told (scene, scenes, 0.0)."""
    source, count = autoencoder.pictures(seed=stage.scenes_seed, grid_px=stage.grid_px), stage.scenes
    latents, prompts = list[torch.Tensor](), list[str]()
    for start in range(0, count, 200):
        drawn = [next(source) for _ in range(min(200, count - start))]
        prompts += [scenes.prompt(scene) for scene, _ in drawn]
        latents.append(autoencoder.encode(nets.vae, [pixels for _, pixels in drawn]))
        report(start, count, 0.0)
    stacked = torch.cat(latents).contiguous()
    labels = torch.tensor([bindings.label(prompt) for prompt in prompts])
    return Lessons(diffusers.FluxPipeline._pack_latents(stacked, *stacked.shape), *tokens(nets, prompts), labels)


def predict(
    nets: networks.Networks, noisy: torch.Tensor, times: torch.Tensor, clip_tokens: torch.Tensor, text: torch.Tensor
) -> torch.Tensor:
    """Velocity (noise - latents) of packed noisy latents at their times, N x tokens x channels; `text` is T5's output."""
    side = networks.LATENT_SIZE // 2
    prediction: torch.Tensor = nets.transformer(
        hidden_states=noisy,
        timestep=times,
        encoder_hidden_states=text,
        pooled_projections=nets.text_encoder(clip_tokens).pooler_output,
        txt_ids=torch.zeros(text.shape[1], 3),
        img_ids=diffusers.FluxPipeline._prepare_latent_image_ids(1, side, side, torch.device("cpu"), torch.float32),
        return_dict=False,
    )[0]
    return prediction


class Training:
    """Networks being taught: live and averaged weights, the optimizer's memory, and the step they are at."""

    def __init__(self, nets: networks.Networks, *, seed: int) -> None:
        self.nets, self.seed, self.step = nets, seed, 0
        taught = (nets.transformer, nets.text_encoder, nets.text_encoder_2)
        self.labeller = torch.nn.Linear(networks.WIDTH, bindings.LABELS)
        self.weights = [weight for network in (*taught, self.labeller) for weight in network.parameters()]
        self.averages = [weight.detach().clone() for weight in self.weights]
        groups = [
            {"params": [each for each in self.weights if (each.ndim > 1) == decays], "weight_decay": 0.01 * decays}
            for decays in (True, False)
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)
        self.empty_tokens = tokens(nets, [""])
        self.crew = parts.Crew()

    def learn_step(self, stage: curriculum.Stage, lessons: Lessons) -> float:
        """Take one step on a random batch and return its loss."""
        loss_of = functools.partial(self._loss, stage.label_weight)
        loss = self.crew.differentiate(loss_of, self._batch(stage, lessons), self.weights)
        self._update(stage.rate(self.step))
        return loss

    def _batch(self, stage: curriculum.Stage, lessons: Lessons) -> Batch:
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
        chosen = torch.randint(len(lessons.latents), (BATCH,), generator=random)
        latents, clip_tokens, t5_tokens, labels = (each[chosen] for each in lessons)
        dropped = torch.rand(BATCH, 1, generator=random) < DROPPED_SHARE
        noise = torch.randn(latents.shape, generator=random)
        times = torch.sigmoid(stage.times_centre + stage.times_spread * torch.randn(BATCH, generator=random))
        return Batch(
            noisy=torch.lerp(latents, noise, times[:, None, None]),
            times=times,
            clip_tokens=torch.where(dropped, self.empty_tokens[0], clip_tokens),
            t5_tokens=torch.where(dropped, self.empty_tokens[1], t5_tokens),
            velocity=noise - latents,
            labels=torch.where(dropped, bindings.NOTHING, labels),
        )

    def _loss(self, label_weight: float, *part: torch.Tensor) -> torch.Tensor:
        asked = Batch(*part)
        text = self.nets.text_encoder_2(asked.t5_tokens)[0]
        predicted = predict(self.nets, asked.noisy, asked.times, asked.clip_tokens, text)
        guesses, labels = self.labeller(text).flatten(0, 1), asked.labels.flatten()
        confusion = torch.nn.functional.cross_entropy(guesses, labels, ignore_index=bindings.NOTHING, reduction="sum")
        confusion = confusion / (labels != bindings.NOTHING).sum().clamp(min=1)
        return (predicted - asked.velocity).square().mean() + label_weight * confusion

    def _update(self, rate: float) -> None:
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        decay = min(AVERAGE_DECAY, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.averages, [each.detach() for each in self.weights], 1 - decay)
        self.step += 1

    @torch.no_grad()
    def use_averages(self) -> None:
        """Put the averaged weights into the networks; training must not go on after it."""
        for weight, average in zip(self.weights, self.averages, strict=True):
            weight.copy_(average)

    def save(self, path: Path) -> None:
        """Keep everything that training needs to go on."""
        memories = [self.optimizer.state[weight] for weight in self.weights]
        kept = {"step": torch.tensor(self.step)}
        for number, memory in enumerate(memories):
            kept |= {f"weight.{number}": self.weights[number].detach(), f"average.{number}": self.averages[number]}
            kept |= {f"{name}.{number}": value for name, value in memory.items()}
        fresh = path.with_suffix(".new")
        safetensors.torch.save_file(kept, fresh)
        fresh.replace(path)

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """Go on from what `save` kept."""
        kept = safetensors.torch.load_file(path)
        self.step = int(kept["step"])
        for number, weight in enumerate(self.weights):
            weight.copy_(kept[f"weight.{number}"])
            self.averages[number].copy_(kept[f"average.{number}"])
            names = ("step", "exp_avg", "exp_avg_sq")
            self.optimizer.state[weight] = {name: kept[f"{name}.{number}"] for name in names}


def learn(
    nets: networks.Networks,
    stages: Sequence[curriculum.Stage],
    *,
    seed: int,
    checkpoint: Path,
    reporter: Callable[[str], Callable[[int, int, float], None]],
) -> None:
    """Teach the networks in place, from the checkpoint if there is one; reports are told (step, steps, loss)."""
    training = Training(nets, seed=seed)
    if checkpoint.exists():
        training.load(checkpoint)
    report = reporter("transformer")
    for stage in (stage for stage in stages if training.step < stage.until):
        lessons = prepare(nets, stage, report=reporter("scenes"))
        while training.step < stage.until:
            step = training.step
            report(step, stages[-1].until, training.learn_step(stage, lessons))
            if training.step % CHECKPOINT_STEPS == 0:
                training.save(checkpoint)
    training.save(checkpoint)
    training.use_averages()
