"""What an assignment becomes for the engine, and what the engine says becomes for the owner."""

import dataclasses
import datetime
from typing import Any

import pytest
from google.protobuf import timestamp_pb2

from darkroom import catalog, clock
from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.api.types.v1 import inputs_pb2, money_pb2
from darkroom.model_runner import messages
from darkroom.model_runner.domain import AttemptFailed, AttemptKey
from darkroom.model_runner.engine import job as engine_job
from tests.model_runner import world as worlds

KEY = AttemptKey("gen_1", 3, 2)


@pytest.fixture
def entry(catalog_dir: Any) -> catalog.ModelEntry:
    return catalog.load(catalog_dir)[worlds.MODEL]


def assign(entry: catalog.ModelEntry, **changes: Any) -> pb.Assign:
    values: dict[str, Any] = {
        "key": messages.key_to(KEY),
        "tenant_id": "ten_1",
        "model": entry.name,
        "model_revision": entry.revision,
        "image": inputs_pb2.ImageInput(
            prompt="a dog",
            negative_prompt="a cat",
            width=32,
            height=48,
            steps=5,
            guidance_scale=2.5,
            seed=40,
            num_images=3,
        ),
        "solo": True,
    }
    return pb.Assign(**(values | changes))


def test_an_assignment_becomes_a_job(entry: catalog.ModelEntry) -> None:
    use = engine_job.AdapterUse(path=entry.directory, digest="d", scale=0.5)
    job = messages.job(assign(entry), entry, [use])
    assert job == engine_job.Job(
        key="gen_1/3/2",
        tenant_id="ten_1",
        model=entry.name,
        prompt="a dog",
        negative_prompt="a cat",
        width=32,
        height=48,
        steps=5,
        guidance_scale=2.5,
        seeds=(40, 41, 42),
        adapters=(use,),
        max_sequence_length=12,
        solo=True,
    )


def test_videos_and_sounds_become_jobs(entry: catalog.ModelEntry) -> None:
    video = inputs_pb2.VideoInput(width=32, height=48, num_frames=9, frames_per_second=8, seed=40, steps=5)
    video.extras["shift"] = 2.5
    job = messages.job(assign(entry, video=video), entry, [])
    assert (job.width, job.height, job.frames, job.frames_per_second, job.seeds) == (32, 48, 9, 8, (40,))
    assert (job.steps, job.extras, job.strength, job.duration_us) == (5, {"shift": 2.5}, None, 0)
    sound = inputs_pb2.AudioInput(prompt="rain", duration_us=5_000_000, seed=3, guidance_scale=7.0)
    job = messages.job(assign(entry, audio=sound), entry, [])
    assert (job.width, job.height, job.duration_us, job.seeds) == (0, 0, 5_000_000, (3,))
    assert (job.prompt, job.guidance_scale) == ("rain", 7.0)


def test_a_model_makes_what_its_entry_says(entry: catalog.ModelEntry) -> None:
    sounds = dataclasses.replace(entry, kind="audio")
    assert messages.check(assign(entry, audio=inputs_pb2.AudioInput(prompt="rain")), sounds) is sounds
    assert messages.spec(sounds).medium == "audio"


def test_keys_go_both_ways() -> None:
    assert messages.key_of(messages.key_to(KEY)) == KEY


def test_what_this_runner_cannot_serve_is_its_own_fault(entry: catalog.ModelEntry) -> None:
    assert messages.check(assign(entry), entry) is entry
    audio = assign(entry)
    audio.audio.prompt = "rain"
    cases = {
        "MODEL_NOT_SERVED": (assign(entry), None),
        "MODEL_REVISION_MISMATCH": (assign(entry, model_revision="sha256:other"), entry),
        "INPUT_NOT_SERVED": (audio, entry),
    }
    for reason, (message, known) in cases.items():
        with pytest.raises(AttemptFailed) as refusal:
            messages.check(message, known)
        assert (refusal.value.reason, refusal.value.request_fault) == (reason, False)


def test_an_unset_scale_is_one() -> None:
    assert messages.scale_of(inputs_pb2.AdapterRef(adapter_id="a")) == 1.0
    assert messages.scale_of(inputs_pb2.AdapterRef(adapter_id="a", scale=0.0)) == 0.0


def test_the_engine_learns_where_a_model_lies(entry: catalog.ModelEntry) -> None:
    spec = messages.spec(entry)
    assert (spec.path, spec.revision, spec.family) == (entry.directory, entry.revision, "flux")
    assert (spec.guidance, spec.memory_bytes) == ("true_cfg", 1_000_000)


def test_usage_is_device_time_and_counts() -> None:
    used = engine_job.Usage(
        adapters_us=1, prepare_us=20, denoise_us=300, decode_us=4000, steps=12, images=2, pixels=2048
    )
    assert messages.usage(used) == money_pb2.Usage(gpu_time_us=4321, steps=12, images=2, pixels=2048)


def test_fetching_and_storing_stand_around_the_engines_stages() -> None:
    spent = [engine_job.Stage(name, 10) for name in ("wait", "load", "adapters", "prepare", "denoise", "decode")]
    told = messages.stages(spent, fetch_us=7, store_us=5)
    assert (told.queued_us, told.load_us, told.adapters_us, told.store_us, told.encode_us) == (10, 10, 17, 5, 0)
    assert (told.prepare_us, told.denoise_us, told.decode_us) == (10, 10, 10)


@pytest.mark.parametrize("request_fault", [True, False])
def test_a_failure_that_is_not_the_requests_may_be_tried_again(request_fault: bool) -> None:
    told = messages.failed(KEY, AttemptFailed("WHY", "because", request_fault=request_fault)).failed
    assert (told.error.reason, told.error.message) == ("WHY", "because")
    assert (told.error.retryable, told.request_fault) == (not request_fault, request_fault)
    assert messages.key_of(told.key) == KEY


def test_classes_and_deadlines_reach_the_engine(entry: catalog.ModelEntry) -> None:
    for told, priority in (
        (inputs_pb2.PRIORITY_UNSPECIFIED, engine_job.Priority.STANDARD),
        (inputs_pb2.PRIORITY_INTERACTIVE, engine_job.Priority.INTERACTIVE),
        (inputs_pb2.PRIORITY_STANDARD, engine_job.Priority.STANDARD),
        (inputs_pb2.PRIORITY_BATCH, engine_job.Priority.BATCH),
    ):
        assert messages.job(assign(entry, priority=told), entry, []).priority is priority
    in_a_minute = timestamp_pb2.Timestamp()
    in_a_minute.FromDatetime(datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=60))
    before_us = clock.monotonic_us()
    deadline_us = messages.job(assign(entry, deadline=in_a_minute), entry, []).deadline_us
    assert deadline_us is not None
    assert before_us + 30_000_000 < deadline_us <= clock.monotonic_us() + 60_000_000
    assert messages.job(assign(entry), entry, []).deadline_us is None


def test_a_tier_and_a_sampler_reach_the_job(entry: catalog.ModelEntry) -> None:
    for quality, tier in ((0, "LOSSLESS"), (1, "LOSSLESS"), (2, "HIGH"), (3, "DRAFT")):
        image = inputs_pb2.ImageInput(prompt="x", sampler="unipc", quality=quality)  # type: ignore[arg-type]
        job = messages.job(assign(entry, image=image), entry, [])
        assert (job.sampler, job.tier) == ("unipc", tier)
