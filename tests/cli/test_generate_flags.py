"""What the flags of `generate` mean, and its exit codes."""

import datetime
import json
from pathlib import Path
from typing import Any

import click
import PIL.Image
import pytest

from darkroom import client
from darkroom.api.scheduler.v1 import generation_service_pb2 as service_pb
from darkroom.api.scheduler.v1 import model_service_pb2 as model_pb
from darkroom.api.types.v1 import inputs_pb2, media_pb2
from darkroom.cli import generate
from tests import platforms
from tests.cli.conftest import QUICK, Darkroom, command
from tests.lora_store import adapters

LORA = "lora_" + "a" * 32
MEDIA = "med_" + "a" * 32
EVERY_FLAG = {
    "--prompt": "a red circle",
    "--negative-prompt": "a square",
    "--size": "64x48",
    "--steps": "3",
    "--guidance": "1.5",
    "--seed": "0",
    "--num-images": "2",
    "--quality": "draft",
    "--sampler": "unipc",
    "--priority": "batch",
    "--deadline": "90s",
    "--idempotency-key": "the-key",
    "--extra": "true_cfg_scale=4",
    "--tag": "campaign=spring",
}


def request_of(*flags: str, kind: Any = model_pb.MODEL_KIND_IMAGE) -> service_pb.CreateGenerationRequest:
    context = generate.generate.make_context("generate", ["pocket-image", *flags])
    return generate.request_of(context.params, kind)


def test_every_flag_reaches_the_request() -> None:
    flags = [word for pair in EVERY_FLAG.items() for word in pair]
    both = [inputs_pb2.AdapterRef(adapter_id=LORA, scale=0.5), inputs_pb2.AdapterRef(adapter_id=LORA)]
    assert request_of(*flags, "--lora", f"{LORA}:0.5", "--lora", LORA) == service_pb.CreateGenerationRequest(
        model="pocket-image",
        image=inputs_pb2.ImageInput(
            prompt="a red circle",
            negative_prompt="a square",
            width=64,
            height=48,
            steps=3,
            guidance_scale=1.5,
            seed=0,
            num_images=2,
            quality=media_pb2.QUALITY_TIER_DRAFT,
            sampler="unipc",
            adapters=both,
            extras={"true_cfg_scale": 4},
        ),
        priority=inputs_pb2.PRIORITY_BATCH,
        deadline=datetime.timedelta(seconds=90),
        idempotency_key="the-key",
        tags={"campaign": "spring"},
    )


def test_a_video_and_a_sound() -> None:
    flags = ("--prompt", "x", "--size", "64x48", "--frames", "9", "--fps", "8")
    assert request_of(*flags, kind=model_pb.MODEL_KIND_VIDEO).video == inputs_pb2.VideoInput(
        prompt="x", width=64, height=48, num_frames=9, frames_per_second=8
    )
    sound = request_of("--prompt", "x", "--length", "1.5s", kind=model_pb.MODEL_KIND_AUDIO)
    assert sound.audio == inputs_pb2.AudioInput(prompt="x", duration_us=1_500_000)


async def test_a_picture_of_a_picture(platform: platforms.Platform, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"picture")
    flags = ["pocket-image", "--prompt", "x", "--source", str(picture), "--mask", MEDIA, "--strength", "0.5"]
    async with platform.tenant() as darkroom:
        wanted = await generate.request_for(darkroom, generate.generate.make_context("generate", flags).params)
    assert wanted.image == inputs_pb2.ImageInput(
        prompt="x",
        source_image=media_pb2.MediaRef(inline=b"picture"),
        mask_image=media_pb2.MediaRef(media_id=MEDIA),
        strength=0.5,
    )


def test_a_large_picture_and_one_that_was_made_are_started_from(darkroom: Darkroom, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    PIL.Image.effect_noise((640, 640), 200.0).convert("RGB").save(picture)
    assert picture.stat().st_size > generate.PICTURE_BYTES_MAX
    flags = ("generate", "pocket-image", "--prompt", "x", *QUICK, "--json", "--idempotency-key", "from-a-large-one")
    first = darkroom(*flags, "--source", str(picture)).json["generation"]
    assert first["image"]["source_image"]["media_id"].startswith("med_")
    assert darkroom(*flags, "--source", str(picture)).json["generation"]["generation_id"] == first["generation_id"]
    made = first["artifacts"][0]["media_id"]
    second = darkroom(*flags[:-1], "from-one-that-was-made", "--source", made, "--mask", made).json["generation"]
    assert second["image"]["source_image"] == second["image"]["mask_image"] == {"media_id": made}


def test_a_flag_of_another_kind_is_misuse() -> None:
    with pytest.raises(click.UsageError, match="--frames is of no use: pocket-image makes images"):
        request_of("--prompt", "x", "--frames", "9")
    with pytest.raises(click.UsageError, match="--size is of no use: pocket-image makes audio"):
        request_of("--prompt", "x", "--size", "64x64", kind=model_pb.MODEL_KIND_AUDIO)


def test_what_is_not_given_is_left_to_the_model() -> None:
    request = request_of("--prompt", "x")
    assert request.image == inputs_pb2.ImageInput(prompt="x")
    assert not request.HasField("deadline")
    assert len(request.idempotency_key) == 32
    assert request.idempotency_key != request_of("--prompt", "x").idempotency_key


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--prompt", "x", "--size", "64"],
        ["--prompt", "x", "--steps", "0"],
        ["--prompt", "x", "--num-images", "0"],
        ["--prompt", "x", "--guidance", "much"],
        ["--prompt", "x", "--seed", "1.5"],
        ["--prompt", "x", "--seed", "99999999999999999999"],
        ["--prompt", "x", "--source", "nowhere.png"],
        ["--prompt", "x", "--tag", "spring"],
        ["--prompt", "x", "--priority", "now"],
        ["--prompt", "x", "--deadline", "30"],
        ["--prompt", "x", "--lora", "mine"],
        ["--prompt", "x", "--out", __file__],
    ],
)
def test_a_flag_that_cannot_be_meant_is_misuse(tmp_path: Path, flags: list[str]) -> None:
    said = command(tmp_path)("generate", "pocket-image", *flags)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("darkroom: ")
    assert said.err.endswith("(`darkroom generate --help` tells more)\n")


def test_a_generation_that_fails_exits_with_1_and_its_reason(darkroom: Darkroom, tmp_path: Path) -> None:
    Path("other.safetensors").write_bytes(adapters.good())  # for layers that the model does not have
    pushed = darkroom("lora", "push", "other.safetensors", "--base-model", "pocket-image", "--json").json
    said = darkroom("generate", "pocket-image", "--prompt", "x", *QUICK, "--lora", pushed["lora"]["adapter_id"])
    assert said.code == 1
    assert said.out.splitlines()[0].endswith("  FAILED")
    assert "\nFREE: " in said.out
    assert "ADAPTER_INVALID: " in said.err
    assert not list(tmp_path.glob("*.png"))


def test_one_that_was_cancelled_exits_with_1(darkroom: Darkroom, platform: platforms.Platform) -> None:
    flags = ("--prompt", "x", "--steps", "100", "--num-images", "4", "--idempotency-key", "cancelled-before")
    with client.Client(platform.connection, api_key=platform.connection.api_key) as tenant:
        tenant.cancel(tenant.create(request_of(*flags)).generation_id)
    said = darkroom("generate", "pocket-image", *flags, "--json")
    assert said.code == 1
    told = json.loads(said.out)
    assert told["generation"]["state"] == "GENERATION_STATE_CANCELLED"
    assert told["paths"] == []


def test_an_estimate_makes_nothing(darkroom: Darkroom, tmp_path: Path) -> None:
    told = darkroom("generate", "pocket-image", "--prompt", "x", *QUICK, "--estimate", "--json").json
    assert told["steps_total"] > 0
    assert told["accelerators"][0]["accelerator"]
    assert not list(tmp_path.glob("*.png"))


def test_a_draft_is_made_and_billed_as_one(darkroom: Darkroom) -> None:
    flags = ("--prompt", "a red circle on a white background", "--steps", "28", "--quality", "draft", "--json")
    told = darkroom("generate", "pocket-image", *flags).json
    assert told["generation"]["artifacts"][0]["quality"] == told["charge"]["quality"] == "QUALITY_TIER_DRAFT"
    assert int(told["charge"]["usage"]["cached_steps"]) > 0


def test_files_go_where_they_are_told(darkroom: Darkroom, tmp_path: Path) -> None:
    flags = ("--prompt", "x", *QUICK, "--num-images", "2", "--out", "new/folder", "--json")
    told = darkroom("generate", "pocket-image", *flags).json
    paths = [Path(path) for path in told["paths"]]
    assert [path.parent for path in paths] == [tmp_path / "new" / "folder"] * 2
    assert [path.name for path in paths] == [f"{told['generation']['generation_id']}-{i}.png" for i in range(2)]
    assert all(path.is_file() for path in paths)


def test_a_file_is_named_for_its_type() -> None:
    assert generate.extension("image/png") == "png"
    assert generate.extension("application/x-new") == "bin"
