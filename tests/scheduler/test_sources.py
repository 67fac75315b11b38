"""Every way of naming a picture, against models that take none, may take one, or need one."""

import dataclasses
import struct
from typing import Any

import pytest

from darkroom import ids, validation
from darkroom.api.types.v1.inputs_pb2 import AudioInput, ImageInput, VideoInput
from darkroom.api.types.v1.media_pb2 import MediaRef
from darkroom.scheduler import sources
from tests.media_store.conftest import image
from tests.scheduler import media_entries

STORED = MediaRef(media_id=ids.new("med"))


def bad(wanted: Any, family: str = "pipeline", **taken: Any) -> list[str]:
    kind = {ImageInput: "image", VideoInput: "video", AudioInput: "audio"}[type(wanted)]
    found = validation.Violations()
    entry = media_entries.video(**({"source_image": "none", "kind": kind} | taken))
    sources.check(found, wanted, dataclasses.replace(entry, family=family))
    try:
        found.raise_if_any()
    except Exception as error:
        return [violation.field for violation in error.violations]  # type: ignore[attr-defined]
    return []


PNG, JPEG, WEBP = map(image, ("PNG", "JPEG", "WEBP"))


def padded(size_bytes: int) -> bytes:
    """A PNG with a chunk that nobody knows."""
    length = size_bytes - len(PNG) - 12
    return PNG[:33] + struct.pack(">I", length) + b"teXt" + bytes(length + 4) + PNG[33:]


REFS = [STORED, *(MediaRef(inline=data) for data in (PNG, JPEG, WEBP, padded(sources.INLINE_BYTES_MAX)))]


@pytest.mark.parametrize("ref", REFS)
def test_a_picture_may_be_stored_or_inline(ref: MediaRef) -> None:
    assert bad(VideoInput(source_image=ref), source_image="optional") == []
    assert bad(ImageInput(source_image=ref, mask_image=ref), source_image="required", mask_image="optional") == []


@pytest.mark.parametrize(
    ("ref", "field"),
    [
        (MediaRef(), "video.source_image"),
        (MediaRef(media_id="med_../x"), "video.source_image.media_id"),
        (MediaRef(inline=b""), "video.source_image.inline"),
        (MediaRef(inline=padded(sources.INLINE_BYTES_MAX + 1)), "video.source_image.inline"),
        (MediaRef(inline=PNG[:-1]), "video.source_image.inline"),
        (MediaRef(inline=PNG[:-30] + PNG[-12:]), "video.source_image.inline"),
        (MediaRef(inline=PNG + b" "), "video.source_image.inline"),
        (MediaRef(inline=JPEG[:-2]), "video.source_image.inline"),
        (MediaRef(inline=WEBP[:-2]), "video.source_image.inline"),
        (MediaRef(inline=PNG[:16] + struct.pack(">II", 16385, 1) + PNG[24:]), "video.source_image.inline"),
        (MediaRef(inline=PNG[:16] + struct.pack(">II", 8193, 8192) + PNG[24:]), "video.source_image.inline"),
        (MediaRef(inline=b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "video.source_image.inline"),
        (MediaRef(inline=b"GIF89a"), "video.source_image.inline"),
        (MediaRef(inline=b" " + PNG), "video.source_image.inline"),
        (MediaRef(url="https://example.com/a.png"), "video.source_image.url"),
    ],
)
def test_a_bad_reference_is_named(ref: MediaRef, field: str) -> None:
    assert bad(VideoInput(source_image=ref), source_image="optional") == [field]


def test_a_model_takes_what_its_entry_says() -> None:
    assert bad(VideoInput(source_image=STORED)) == ["video.source_image"]
    assert bad(VideoInput(), source_image="required") == ["video.source_image"]
    assert bad(VideoInput(), source_image="optional") == []
    assert bad(AudioInput()) == []
    assert bad(ImageInput(mask_image=STORED)) == ["image.mask_image"]
    assert bad(ImageInput(mask_image=STORED), source_image="optional", mask_image="optional") == ["image.mask_image"]


def test_strength_is_of_a_source() -> None:
    assert bad(ImageInput(strength=0.5)) == ["image.strength"]
    assert bad(ImageInput(strength=0.5), source_image="optional") == ["image.strength"]
    assert bad(ImageInput(strength=0.5, source_image=STORED), source_image="optional") == []
    assert bad(ImageInput(strength=1.0, source_image=STORED), source_image="optional") == []


@pytest.mark.parametrize("strength", [0.0, -0.0, 1e-300, -0.1, 1.5, float("nan"), float("inf")])
def test_a_strength_that_leaves_no_step_is_refused_before_it_is_stored(strength: float) -> None:
    assert bad(ImageInput(strength=strength, source_image=STORED), source_image="optional") == ["image.strength"]


@pytest.mark.parametrize(
    ("family", "given", "good"),
    [
        ("stable_diffusion", {"steps": 4, "strength": 0.2}, False),
        ("stable_diffusion", {"steps": 4, "strength": 0.25}, True),
        ("stable_diffusion", {"steps": 1}, False),  # at its own strength of 0.8
        ("stable_diffusion", {"steps": 1, "mask_image": STORED}, True),
        ("sdxl", {"steps": 3}, False),
        ("sdxl", {"steps": 4}, True),
        ("sdxl", {"strength": 0.09}, False),  # of the model's own 10 steps
        ("sdxl", {"strength": 0.1}, True),
        ("sdxl", {"steps": 1, "strength": 0.9, "mask_image": STORED}, False),
        ("flux", {"steps": 4, "strength": 0.2}, True),  # it enters within a step
    ],
)
def test_a_picture_that_leaves_no_whole_step_is_refused_before_it_is_stored(
    family: str, given: Any, good: bool
) -> None:
    wanted = ImageInput(source_image=STORED, **given)
    found = bad(wanted, family, source_image="optional", mask_image="optional")
    assert found == ([] if good else ["image.strength"])


@pytest.mark.parametrize(
    ("family", "wanted", "taken", "steps"),
    [
        ("flux", ImageInput(steps=10), {}, 10),
        ("flux", ImageInput(steps=28, source_image=STORED), {}, 17),
        ("flux", ImageInput(steps=28, source_image=STORED, strength=0.3), {}, 9),
        ("flux", ImageInput(steps=28, source_image=STORED, strength=1.0), {}, 28),
        ("flux", ImageInput(steps=28, source_image=STORED, mask_image=STORED), {}, 17),
        ("flux", ImageInput(steps=28, source_image=STORED), {"mask_image": "none"}, 28),  # Kontext's own way
        ("flux", ImageInput(steps=28, source_image=STORED), {"source_image": "required"}, 28),  # Fill's
        ("flux", ImageInput(steps=28, source_image=STORED, strength=0.5), {"source_image": "required"}, 14),
        ("z_image", ImageInput(steps=9, source_image=STORED), {"mask_image": "none"}, 6),
        ("sdxl", ImageInput(steps=28, source_image=STORED), {}, 8),
        ("stable_diffusion", ImageInput(steps=28, source_image=STORED, mask_image=STORED), {}, 28),
        ("stable_diffusion", ImageInput(steps=28, source_image=STORED, strength=0.3), {}, 8),
        ("pipeline", ImageInput(steps=28, source_image=STORED, strength=0.3), {}, 28),
        ("wan", VideoInput(steps=28, source_image=STORED), {}, 28),
        ("stable_audio", AudioInput(steps=28), {}, 28),
    ],
)
def test_a_picture_leaves_the_steps_after_it_enters(family: str, wanted: Any, taken: Any, steps: int) -> None:
    entry = media_entries.video(**({"source_image": "optional", "mask_image": "optional"} | taken))
    assert sources.steps_left(wanted, dataclasses.replace(entry, family=family)) == steps


def test_what_the_store_must_have_is_told_by_field() -> None:
    assert sources.stored(ImageInput(source_image=MediaRef(inline=PNG), mask_image=STORED), "image") == {
        "image.mask_image.media_id": STORED.media_id
    }
    assert sources.stored(VideoInput(source_image=STORED), "video") == {"video.source_image.media_id": STORED.media_id}
    assert sources.stored(AudioInput(), "audio") == {}
