"""What must hold for both UNet families alike, on one model that takes every task.

In: a `Subject`. Out: nothing, or a failed assertion. The test files of the families name each of these as a test.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from darkroom.model_runner.engine.job import ModelSpec
from tests.model_runner.engine.families import residents
from tests.model_runner.engine.families.residents import TOLERANCE, distance, latents

IMAGE: Mapping[str, Any] = {"source_image": residents.picture(32, 32), "strength": 0.7}
INPAINT: Mapping[str, Any] = {
    "source_image": residents.picture(40, 24),
    "mask_image": residents.mask(24, 48),
    "strength": 0.8,
}
INPAINT_ALL: Mapping[str, Any] = {
    "source_image": residents.picture(32, 32),
    "mask_image": residents.mask(32, 32),
    "strength": 1.0,
}


class Subject(NamedTuple):
    """A resident model of 4 input channels, and what diffusers needs to make the same."""

    model: Any
    parts: Mapping[str, Any]
    reference: Callable[..., Tensor]
    make_job: Callable[..., Any]


def mixes_everything(subject: Subject) -> None:
    """One batch holds rows of different tasks, samplers, steps, guidance, seeds and prompts."""
    make_job = subject.make_job
    jobs = [
        make_job("1", sampler="euler", steps=3, seeds=(1,), guidance_scale=2.0),
        make_job("2", sampler="dpmpp_2m_karras", steps=6, seeds=(2**40,), prompt="blue", negative_prompt="red"),
        make_job("3", sampler="euler_ancestral", steps=5, seeds=(3,), guidance_scale=9.0, **IMAGE),
        make_job("4", sampler="unipc", steps=5, seeds=(4,), prompt="", **INPAINT),
        make_job("5", sampler="ddim", steps=4, seeds=(5,), negative_prompt="white", **INPAINT_ALL),
        make_job("6", sampler="lcm", steps=2, seeds=(6,), guidance_scale=1.5),
    ]
    together = latents(subject.model, *jobs)
    for job, found in zip(jobs, together, strict=True):
        assert distance(found, subject.reference(subject.parts, job)) <= TOLERANCE
    assert min(distance(one, other) for one in together for other in together if one is not other) > 0.1


def come_and_go(subject: Subject, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows join and leave the batch at any step, by different samplers."""
    jobs = [subject.make_job("1", **{name: row[name] for name in row if name != "arrival"}) for row in rows]
    arrivals = [row["arrival"] for row in rows]
    for job, found in zip(jobs, latents(subject.model, *jobs, arrivals=arrivals), strict=True):
        assert distance(found, subject.reference(subject.parts, job)) <= TOLERANCE


def adapters_equal_merged_weights(subject: Subject, folder: Path) -> None:
    """Rows with an adapter of two strengths and one with none share a batch."""
    unet = subject.parts["unet"]
    use = residents.adapter(unet, folder / "adapter.safetensors", prefix="unet")
    uses = [dataclasses.replace(use, scale=scale) for scale in (1.0, -0.5)]
    jobs = [subject.make_job(str(one.scale), adapters=(one,), **IMAGE) for one in uses]
    plain = subject.make_job("plain", **IMAGE)
    *found, without = latents(subject.model, *jobs, plain)
    for job, one, row in zip(jobs, uses, found, strict=True):
        expected = subject.reference({**subject.parts, "unet": residents.merged(unet, one, prefix="unet")}, job)
        assert distance(row, expected) <= TOLERANCE
        assert distance(row, without) > 100 * TOLERANCE
    assert distance(without, subject.reference(subject.parts, plain)) <= TOLERANCE


def seeds_are_alone(subject: Subject) -> None:
    """Each seed of a job becomes what it becomes in a job of its own."""
    job = subject.make_job("1", seeds=(3, 9), sampler="euler_ancestral", **INPAINT)
    for seed, found in zip(job.seeds, latents(subject.model, job), strict=True):
        assert distance(found, latents(subject.model, dataclasses.replace(job, seeds=(seed,)))[0]) <= TOLERANCE


@torch.inference_mode()
def decodes_a_batch(subject: Subject) -> None:
    """Two rows are decoded together into the pipeline's pictures."""
    jobs = [subject.make_job("1", seeds=(1,)), subject.make_job("2", seeds=(2,), prompt="blue")]
    states = [state for rows in subject.model.prepare(jobs) for state in rows]
    decoded = subject.model.decode(residents.run(subject.model, states))
    for job, found in zip(jobs, decoded, strict=True):
        assert found.shape == (3, 32, 32)
        expected = subject.reference(subject.parts, job, output_type="pt")
        assert distance(found.clamp(0, 1), expected) <= TOLERANCE


def paints_through_the_engine(subject: Subject, spec: ModelSpec, record: Any) -> None:
    """The engine finds the family by its name, and its files show what the model decodes."""
    recorder, job = record([spec], memory_bytes_max=1 << 30), subject.make_job("1", seeds=(1, 2), **INPAINT)
    recorder.submit(job)
    (finished,) = recorder.finished("1")
    assert [(output.width, output.height, output.seed) for output in finished.outputs] == [(32, 32, 1), (32, 32, 2)]
    assert finished.usage.steps == 2 * int(job.steps * job.strength)
    vae = subject.model._pipeline.vae
    with torch.inference_mode():
        decoded = vae.decode(torch.stack(latents(subject.model, job)) / vae.config.scaling_factor).sample
    for output, picture in zip(finished.outputs, decoded.clamp(-1, 1) * 127.5 + 127.5, strict=True):
        drawn = torch.tensor(np.array(residents.image(output.data)))
        assert distance(drawn.permute(2, 0, 1).float(), picture) <= 0.6  # rounded to bytes


def tiers_are_told(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """HIGH runs the lighter copy, in batches of its own; a UNet is no row of blocks to skip, so there is no DRAFT."""
    monkeypatch.setattr(subject.model.tiers, "_has_lighter", True)
    jobs = [subject.make_job(tier, tier=tier, sampler="euler") for tier in ("LOSSLESS", "HIGH", "DRAFT")]
    with torch.inference_mode():
        (exact,), (high,), (draft,) = subject.model.prepare(jobs)
    assert (exact.tier, high.tier, draft.tier) == ("LOSSLESS", "HIGH", "LOSSLESS")
    assert exact.batch_key != high.batch_key
    (lighter,), (reference,) = latents(subject.model, jobs[1]), latents(subject.model, jobs[0])
    assert 0 < distance(lighter, reference) < 0.5


@torch.inference_mode()
def guidance_of_one_is_one_prediction(subject: Subject) -> None:
    """No second prediction is made where it would be multiplied by nothing."""
    jobs = [subject.make_job("1", guidance_scale=1.0), subject.make_job("2")]
    [[plain], [guided]] = subject.model.prepare(jobs)
    assert plain.batch_key != guided.batch_key
    assert subject.model.denoise([plain]).negative is None
    assert subject.model.denoise([guided]).negative is not None


@torch.inference_mode()
def a_step_changes_nothing_in_place(subject: Subject) -> None:
    """The state that a step was given is as it was, so that a failed step loses nothing."""
    [[state]] = subject.model.prepare([subject.make_job("1", sampler="euler_ancestral", **INPAINT)])
    before, rng = state.latents.clone(), state.noise_rng.clone()
    (after,) = subject.model.advance([state], subject.model.denoise([state]))
    assert (state.step, after.step) == (0, 1)
    assert torch.equal(state.latents, before)
    assert torch.equal(state.noise_rng, rng)
    assert not torch.equal(after.latents, before)
