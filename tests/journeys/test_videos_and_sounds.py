"""A video from text, one from a picture, one by a whole pipeline, and a sound, each from the request to a file, a bill and an explanation."""

import io
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import av
import pytest
import tenacity
import yaml

from darkroom import client, errors
from darkroom.api.billing_meter.v1 import billing_service_pb2 as billing_pb
from darkroom.api.scheduler.v1 import generation_pb2 as generation_pb
from darkroom.api.scheduler.v1 import generation_service_pb2 as service_pb
from darkroom.api.scheduler.v1 import model_service_pb2 as model_pb
from darkroom.model_runner.engine import revision
from tests import platforms
from tests.journeys import load
from tests.model_runner.engine.families import tiny_media

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")  # diffusers' vocoder uses the old one

SIDE = {"min": 32, "max": 64, "multiple_of": 16}
VIDEO = {
    "limits": {
        "width": SIDE,
        "height": SIDE,
        "num_frames": {"min": 1, "max": 9, "multiple_of": 4},
        "frames_per_second": {"min": 1, "max": 30},
        "pixels_max": 64 * 64 * 9,
    },
    "defaults": {"width": 32, "height": 32, "num_frames": 5, "frames_per_second": 8},
}
AUDIO = {"limits": {"duration_us": {"min": 1_000, "max": 32_000}}, "defaults": {"duration_us": 20_000}}


def entry(folder: Path, name: str, *, weights: str, kind: str, family: str, **changes: Any) -> None:
    own: dict[str, Any] = VIDEO if kind == "video" else AUDIO
    numbers = {"steps": {"min": 1, "max": 50}, "guidance_scale": {"min": 1, "max": 20}}
    facts = {
        "name": name,
        "kind": kind,
        "family": family,
        "description": "A model of random weights.",
        "path": weights,
        "revision": revision.digest(folder / weights),
        "license": "none",
        "guidance": "true_cfg",
        "max_sequence_length": tiny_media.TOKENS,
        "memory_bytes": 10_000_000,
        "defaults": {"steps": 3, "guidance_scale": 3.0, **own["defaults"]},
        "limits": {**numbers, "prompt_bytes_max": 2000, "adapters_max": 0, **own["limits"]},
        "price": {"currency": "USD", "nanos_per_media_second": 8_000_000, "nanos_per_gpu_second": 1_000_000},
        "step_cost_us_guess": 100_000,
        "load_s_guess": 5.0,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(facts | changes))


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[platforms.Platform]:
    folder = tmp_path_factory.mktemp("catalogue")
    tiny_media.wan(folder / "wan")
    tiny_media.wan(folder / "wan_image", image=True)
    tiny_media.stable_audio(folder / "stable_audio", scheduler="CosineDPMSolverMultistepScheduler")
    entry(folder, "text-video", weights="wan", kind="video", family="wan")
    entry(folder, "image-video", weights="wan_image", kind="video", family="wan", source_image="required")
    entry(folder, "whole-video", weights="wan", kind="video", family="pipeline")
    entry(folder, "sound", weights="stable_audio", kind="audio", family="stable_audio")
    variables = {"DARKROOM_CATALOG_DIR": str(folder), "DARKROOM_PRELOAD": "text-video,image-video,whole-video,sound"}
    with platforms.running(tmp_path_factory.mktemp("home"), environment=variables) as started:
        yield started


@pytest.fixture
async def darkroom(platform: platforms.Platform) -> AsyncIterator[client.AsyncClient]:
    tenant = await load.new_tenant(platform, "director")
    async with platform.tenant(tenant.api_key) as connected:
        yield connected


async def make(darkroom: client.AsyncClient, path: Path, model: str, **media: Any) -> tuple[Any, bytes]:
    """Make one generation; the generation and its file."""
    made = await darkroom.generate(service_pb.CreateGenerationRequest(model=model, idempotency_key=model, **media))
    assert made.state == generation_pb.GENERATION_STATE_SUCCEEDED, made
    [artifact] = made.artifacts
    await darkroom.download(artifact, path)
    return made, path.read_bytes()


async def bill(darkroom: client.AsyncClient, generation_id: str) -> billing_pb.Charge:
    """The charge, once the ledger has it."""
    posted = tenacity.retry_if_result(lambda charge: charge.state == billing_pb.CHARGE_STATE_PENDING)
    patient = tenacity.AsyncRetrying(
        retry=posted, wait=tenacity.wait_fixed(0.1), stop=tenacity.stop_after_delay(load.POSTED_WITHIN_S)
    )
    charge: billing_pb.Charge = await patient(darkroom.charge, generation_id)
    return charge


async def seconds_of_media(darkroom: client.AsyncClient, made: generation_pb.Generation) -> tuple[str, int]:
    """What its seconds cost, on a bill that adds up to the price of what it used."""
    charge, model = await bill(darkroom, made.generation_id), await darkroom.model(made.model)
    load.check_charge(made, charge, load.rates(model.price))
    [line] = [line for line in charge.lines if line.meter == "media_second"]
    return line.quantity, line.amount_nanos


async def test_each_kind_from_request_to_file_and_bill(darkroom: client.AsyncClient, tmp_path: Path) -> None:
    picture = {"inline": tiny_media.picture()}
    asked = {"prompt": "a red circle moves right", "num_frames": 9, "height": 48}
    for model, more in (("text-video", {}), ("image-video", {"source_image": picture}), ("whole-video", {})):
        made, file = await make(darkroom, tmp_path / model, model, video={**asked, **more})
        [artifact] = made.artifacts
        assert (artifact.media_type, artifact.width, artifact.height) == ("video/mp4", 32, 48)
        assert (artifact.duration_us, made.usage.media_duration_us) == (1_125_000, 1_125_000)
        assert (made.usage.steps, made.usage.images, made.usage.pixels) == (3, 0, 32 * 48 * 9)
        assert made.video.frames_per_second == 8
        with av.open(io.BytesIO(file)) as container:
            assert [frame.width for frame in container.decode(video=0)] == [32] * 9
        assert await seconds_of_media(darkroom, made) == ("1.125", 9_000_000)


async def test_a_sound(darkroom: client.AsyncClient, tmp_path: Path) -> None:
    made, file = await make(darkroom, tmp_path / "sound", "sound", audio={"prompt": "a low tone", "seed": 5})
    [artifact] = made.artifacts
    assert (artifact.media_type, artifact.duration_us, artifact.seed) == ("audio/flac", 20_000, 5)
    assert (made.usage.media_duration_us, made.usage.pixels) == (20_000, 0)
    assert await seconds_of_media(darkroom, made) == ("0.02", 160_000)
    with av.open(io.BytesIO(file)) as container:
        frames = list(container.decode(audio=0))
    assert (sum(frame.samples for frame in frames), frames[0].sample_rate) == (160, 8000)


async def test_what_a_model_does_not_make_is_refused_before_it_is_stored(darkroom: client.AsyncClient) -> None:
    bad: list[tuple[str, str, dict[str, Any]]] = [
        ("video.num_frames", "text-video", {"video": {"prompt": "x", "num_frames": 8}}),
        ("video.source_image", "image-video", {"video": {"prompt": "x"}}),
        ("video", "sound", {"video": {"prompt": "x"}}),
        ("audio.duration_us", "sound", {"audio": {"prompt": "x", "duration_us": 33_000}}),
    ]
    for field, model, media in bad:
        with pytest.raises(errors.InvalidArgument) as refusal:
            await darkroom.create(service_pb.CreateGenerationRequest(model=model, idempotency_key=field, **media))
        assert [violation.field for violation in refusal.value.violations] == [field]


async def test_the_catalogue_tells_what_may_be_asked(darkroom: client.AsyncClient) -> None:
    models = {model.name: model for model in await darkroom.models()}
    assert models["sound"].kind == model_pb.MODEL_KIND_AUDIO
    assert "width" not in models["sound"].limits
    assert models["text-video"].limits["num_frames"].max == 9
    assert models["text-video"].defaults["frames_per_second"] == 8
