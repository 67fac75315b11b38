"""The stable_audio family makes what diffusers' StableAudioPipeline makes, alone and in mixed batches."""

import dataclasses
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from darkroom.model_runner.engine import checkpoint, errors, quantize
from darkroom.model_runner.engine.families import stable_audio
from darkroom.model_runner.engine.job import Job
from darkroom.model_runner.engine.state import State
from tests.model_runner.engine.families import leaving, residents, tiny_media
from tests.model_runner.engine.samplers import test_edm

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")  # diffusers' vocoder uses the old one

TOLERANCE = 1e-4  # of latents, whose size is about 1
COSINE = "CosineDPMSolverMultistepScheduler"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("stable_audio")
    tiny_media.stable_audio(folder / "ode")
    tiny_media.stable_audio(folder / "sde", algorithm_type="sde-dpmsolver++")
    tiny_media.stable_audio(folder / "cosine", scheduler=COSINE)
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, stable_audio.StableAudio]:
    return {
        name: residents.load(stable_audio, residents.spec(path, family="stable_audio"))
        for name, path in folders.items()
    }


@pytest.fixture(scope="module")
def pipelines(folders: dict[str, Path]) -> dict[str, Any]:
    """diffusers' own, but that the cosine scheduler draws plain noise (test_edm says why)."""
    made = {}
    for name, path in folders.items():
        made[name] = diffusers.StableAudioPipeline.from_pretrained(path, scheduler=None)
        config = test_edm.EDM.load_config(path / "scheduler")
        kind = test_edm.EDM
        if name == "cosine":
            kind, config = test_edm.Cosine, config | {"algorithm_type": "sde-dpmsolver++"}
        made[name].register_modules(scheduler=kind.from_config(config))
        made[name].set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def sound(make_job: Any) -> Any:
    def make(model: str, **changes: Any) -> Job:
        values = {"prompt": "a low tone", "width": 0, "height": 0, "duration_us": 20_000}
        job: Job = make_job(str(changes), model=model, **(values | changes))
        return job

    return make


def reference(pipeline: Any, job: Job, **options: Any) -> Tensor:
    with torch.inference_mode():
        sounds: Tensor = pipeline(
            prompt=job.prompt,
            negative_prompt=job.negative_prompt or None,
            audio_end_in_s=job.duration_us / 1e6,
            num_inference_steps=job.steps,
            guidance_scale=job.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(job.seeds[0]),
            **({"output_type": "latent"} | options),
        ).audios[0]
    return sounds


@pytest.mark.parametrize("duration_us", [1_000, 20_000, 32_000])
@pytest.mark.parametrize("steps", [1, 3, 6])
@pytest.mark.parametrize(("guidance", "negative"), [(1.0, ""), (7.0, ""), (4.0, "noise")])
@pytest.mark.parametrize("name", ["ode", "sde", "cosine"])
def test_alone_equals_the_pipeline(
    models: Any, pipelines: Any, sound: Any, name: str, guidance: float, negative: str, steps: int, duration_us: int
) -> None:
    job = sound(name, steps=steps, guidance_scale=guidance, negative_prompt=negative, duration_us=duration_us)
    (state,) = residents.develop(models[name], job)
    assert residents.distance(state.latents, reference(pipelines[name], job)) <= TOLERANCE


@pytest.mark.parametrize("name", ["ode", "sde", "cosine"])
def test_rows_of_different_steps_guidance_seeds_lengths_and_texts_equal_the_pipeline(
    models: Any, pipelines: Any, sound: Any, name: str
) -> None:
    jobs = [
        sound(name, steps=3, guidance_scale=2.0, seeds=(1,), duration_us=32_000),
        sound(name, steps=6, guidance_scale=7.5, seeds=(2**40,), prompt="a high tone"),
        sound(name, steps=4, guidance_scale=4.0, seeds=(3,), negative_prompt="noise", duration_us=5_000),
    ]
    made = residents.develop(models[name], *jobs)
    for job, state in zip(jobs, made, strict=True):
        assert residents.distance(state.latents, reference(pipelines[name], job)) <= TOLERANCE
    assert (
        min(residents.distance(one.latents, other.latents) for one in made for other in made if one is not other) > 0.1
    )


def test_decoded_sounds_equal_the_pipeline(models: Any, pipelines: Any, sound: Any) -> None:
    jobs = [sound("ode", steps=2, seeds=(1,)), sound("ode", steps=3, seeds=(2,), duration_us=7_000)]
    with torch.inference_mode():
        decoded = models["ode"].decode(residents.develop(models["ode"], *jobs))
    for job, samples in zip(jobs, decoded, strict=True):
        assert samples.shape == (2, job.duration_us * 8 // 1000)
        assert residents.distance(samples, reference(pipelines["ode"], job, output_type="pt")) <= 1e-4


def test_the_sampler_may_be_chosen(models: Any, pipelines: Any, sound: Any) -> None:
    job = sound("ode", steps=4, sampler="dpmpp_2m_sde")
    (state,) = residents.develop(models["ode"], job)  # `sde` has the same weights, and that sampler by itself
    assert residents.distance(state.latents, reference(pipelines["sde"], job)) <= TOLERANCE
    assert residents.distance(state.latents, reference(pipelines["ode"], job)) > 0.1


@torch.inference_mode()
def test_a_saved_state_goes_on_bit_by_bit(models: Any, folders: dict[str, Path], sound: Any) -> None:
    model, spec = models["cosine"], residents.spec(folders["cosine"], family="stable_audio")
    job = sound("cosine", steps=5, negative_prompt="noise", duration_us=5_000)
    ((state,),) = model.prepare([job])
    for _ in range(2):
        (state,) = model.advance([state], model.denoise([state]))
    data = checkpoint.save([state], tiny_media.NO_USAGE, job=job, spec=spec)
    (again,) = checkpoint.load(data, job=job, spec=spec, device=torch.device("cpu")).images
    assert isinstance(again, State)
    while state.step < state.steps_total:
        (state,) = model.advance([state], model.denoise([state]))
        (again,) = model.advance([again], model.denoise([again]))
    assert torch.equal(*(model.decode([end])[0] for end in (state, again)))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"duration_us": 0}, "duration_us"),
        ({"duration_us": 32_001}, "duration_us"),
        ({"source_image": b""}, "source_image"),
        ({"sampler": "ddim"}, "sampler"),
    ],
)
def test_what_it_cannot_make_is_refused_by_name(models: Any, sound: Any, changes: Any, field: str) -> None:
    with pytest.raises(errors.BadRequest, match=f"^{field}: "):
        models["ode"].prepare([sound("ode", **changes)])


def test_leaves_its_device_and_returns_with_every_bit(models: Any, sound: Any) -> None:
    model = models["ode"]
    leaving.and_returning(model, lambda: model.decode(residents.develop(model, sound("ode", steps=2))))


def test_a_draft_keeps_its_cache(models: Any, pipelines: Any, sound: Any) -> None:
    job = sound("ode", steps=6, tier="DRAFT")
    begun = residents.step(models["ode"], job)
    assert (begun.tier, set(begun.cache)) == ("DRAFT", {"first", "rest", "spent", "drift"})
    (state,) = residents.develop(models["ode"], job)
    assert residents.distance(state.latents, reference(pipelines["ode"], job)) < 1.0


def test_tier_high_is_near(models: Any, sound: Any) -> None:
    cpu = torch.device("cpu")
    job = sound("ode", steps=4)
    (state,), (high,) = (
        residents.develop(models["ode"], job),
        residents.develop(models["ode"], dataclasses.replace(job, tier="HIGH")),
    )
    assert high.tier == ("HIGH" if quantize.is_possible(cpu, torch.float32) else "LOSSLESS")
    assert residents.distance(state.latents, high.latents) < 0.2


def test_guidance_as_an_input_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(errors.LoadFailed, match="guidance"):
        residents.load(stable_audio, residents.spec(folders["ode"], family="stable_audio", guidance="embedded"))
