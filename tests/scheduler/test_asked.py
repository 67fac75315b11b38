import dataclasses
from typing import Any

import pytest

from darkroom.api.types.v1 import media_pb2
from darkroom.api.types.v1.inputs_pb2 import AudioInput, ImageInput, VideoInput
from darkroom.scheduler import asked
from tests.scheduler import media_entries

VIDEO = VideoInput(width=64, height=80, num_frames=9, frames_per_second=8, guidance_scale=3.0)


@pytest.mark.parametrize(
    ("media", "size", "pixels"),
    [
        (ImageInput(width=64, height=80, num_images=3), (64, 80, 1, 0, 3), 5120),
        (VIDEO, (64, 80, 9, 1_125_000, 1), 46_080),
        (AudioInput(duration_us=10), (0, 0, 0, 10, 1), 0),
    ],
)
def test_the_size_of_each_kind(media: Any, size: tuple[int, ...], pixels: int) -> None:
    assert asked.size(media) == size
    assert asked.size(media).pixels == pixels


def test_the_input_is_the_one_of_its_kind() -> None:
    for kind in ("image", "video", "audio"):
        request = media_entries.request("x", **{kind: {"prompt": kind}})
        assert asked.media(request, kind).prompt == kind  # type: ignore[arg-type]


def test_shapes_are_named_as_runners_name_them() -> None:
    video, audio = media_entries.video(), media_entries.audio()
    assert asked.shape(VIDEO, video) == "64x80x9 guided"
    assert asked.shape(VideoInput(width=64, height=64, num_frames=1, guidance_scale=1.0), video) == "64x64x1"
    assert asked.shape(ImageInput(width=64, height=80, guidance_scale=1.0), video) == "64x80"
    assert asked.shape(AudioInput(duration_us=5, guidance_scale=2.0), audio) == "window guided"


def test_tiers_of_their_own_have_buckets_of_their_own() -> None:
    draft = VideoInput(width=64, height=80, num_frames=9, guidance_scale=3.0, quality=media_pb2.QUALITY_TIER_DRAFT)
    assert asked.shape(draft, media_entries.video()) == "64x80x9 draft guided"
    high = AudioInput(duration_us=5, quality=media_pb2.QUALITY_TIER_HIGH)
    assert asked.shape(high, media_entries.audio()) == "window high"
    assert asked.quality(ImageInput()) == "LOSSLESS"
    assert asked.quality(ImageInput(quality=9)) == ""  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("guidance", "family", "scale", "extras", "guided"),
    [
        ("true_cfg", "flux", 1.0, {}, False),
        ("true_cfg", "flux", 1.1, {}, True),
        ("true_cfg", "z_image", 0.0, {}, False),
        ("true_cfg", "z_image", 0.5, {}, True),  # Z-Image adds its scale to 1
        ("embedded", "flux", 3.5, {}, False),
        ("embedded", "flux", 3.5, {"true_cfg_scale": 1.0}, False),
        ("embedded", "flux", 3.5, {"true_cfg_scale": 4.0}, True),
        ("none", "flux", 1.0, {"true_cfg_scale": 2}, True),
        ("none", "flux", 1.0, {"true_cfg_scale": "high"}, False),
    ],
)
def test_two_predictions_a_step_cost_as_much_as_the_family_makes(
    guidance: Any, family: str, scale: float, extras: dict[str, Any], guided: bool
) -> None:
    entry = dataclasses.replace(media_entries.video(), guidance=guidance, family=family)
    image = ImageInput(width=64, height=80, guidance_scale=scale)
    image.extras.update(extras)
    assert asked.shape(image, entry) == ("64x80 guided" if guided else "64x80")
