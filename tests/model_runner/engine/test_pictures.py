"""Source pictures reach a VAE as diffusers would hand them to it, whatever file they came in."""

import dataclasses
import io
import struct
from typing import Any

import PIL.Image
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from darkroom import image_files
from darkroom.model_runner.engine import errors, pictures


def gradient(width: int, height: int) -> PIL.Image.Image:
    picture = PIL.Image.new("RGB", (width, height))
    picture.putdata([(x * 255 // width, y * 255 // height, 90) for y in range(height) for x in range(width)])
    return picture


def file(picture: PIL.Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    written = io.BytesIO()
    picture.save(written, format=kind, **options)
    return written.getvalue()


@pytest.mark.parametrize("size", [(32, 16), (48, 40)])
def test_pixels_are_those_of_the_image_processor(size: tuple[int, int]) -> None:
    width, height = size
    picture = gradient(41, 37)
    expected = VaeImageProcessor(vae_scale_factor=8).preprocess(picture, height, width)
    found = pictures.pixels(pictures.read(file(picture), field="image"), width=width, height=height)
    assert found.shape == (1, 3, height, width)
    assert torch.equal(found, expected)


def test_a_mask_is_one_where_it_is_bright() -> None:
    drawn = PIL.Image.new("L", (8, 8), 100)
    drawn.paste(200, (0, 0, 4, 8))
    found = pictures.mask(pictures.read(file(drawn), field="mask"), width=8, height=8)
    assert found.shape == (1, 1, 8, 8)
    assert found[0, 0, :, :4].eq(1).all()
    assert found[0, 0, :, 4:].eq(0).all()


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGBA", "PNG"), ("P", "PNG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "WEBP")]
)
def test_every_kind_of_file_becomes_rgb(mode: str, kind: str) -> None:
    assert pictures.read(file(gradient(8, 8).convert(mode), kind), field="image").mode == "RGB"


def test_a_photo_is_turned_upright() -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # orientation: turn right by 90 degrees
    assert pictures.read(file(gradient(8, 4), "JPEG", exif=exif), field="image").size == (4, 8)


@pytest.mark.parametrize("data", [b"", b"no picture", file(gradient(8, 8))[:60], file(gradient(8, 8), "BMP")])
def test_what_is_no_picture_is_refused_by_its_field(data: bytes) -> None:
    with pytest.raises(errors.BadRequest, match="mask_image: not a readable picture"):
        pictures.read(data, field="mask_image")


@pytest.mark.parametrize(("tag", "kind", "value"), [(0x100, 2, b"ab\0\0"), (0x11A, 2, b"ab\0\0")])
def test_a_photo_that_cannot_be_turned_for_its_broken_metadata_is_refused(tag: int, kind: int, value: bytes) -> None:
    """A width, and a resolution, that are texts: Pillow meets them when it writes the metadata anew."""
    entries = [(0x112, 3, 1, b"\6\0\0\0"), (tag, kind, 3, value)]
    packed = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + packed + b"\0" * 4
    with pytest.raises(errors.BadRequest, match="source_image: not a readable picture"):
        pictures.read(file(gradient(8, 4), "JPEG", exif=exif), field="source_image")


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "SOURCE_PIXELS_MAX", 63)
    with pytest.raises(errors.BadRequest, match="source_image: 8x8"):
        pictures.read(file(gradient(8, 8)), field="source_image")


@pytest.mark.parametrize("size", [(image_files.SOURCE_SIDE_MAX + 1, 1), (1, image_files.SOURCE_SIDE_MAX + 1)])
def test_a_strip_that_takes_long_to_resize_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(errors.BadRequest, match=r"mask_image: .* has a side above 16384 pixels"):
        pictures.read(file(PIL.Image.new("1", size)), field="mask_image")


def test_a_sample_is_diffusers_own() -> None:
    torch.manual_seed(0)
    distribution = DiagonalGaussianDistribution(torch.randn(1, 8, 3, 4))
    expected = distribution.sample(torch.Generator("cpu").manual_seed(5))
    assert torch.equal(pictures.sample(distribution, torch.Generator("cpu").manual_seed(5)), expected)


@pytest.mark.parametrize(("steps", "strength", "first"), [(28, 1.0, 0), (28, 0.6, 11), (4, 0.1, 3), (1, 0.5, 0)])
def test_the_less_goes_the_later_it_enters(make_job: Any, steps: int, strength: float, first: int) -> None:
    job = make_job("1", steps=steps, source_image=b"file")
    assert pictures.first_step(job, strength=strength) == first
    assert pictures.first_step(dataclasses.replace(job, strength=strength), strength=0.9) == first


def test_without_a_picture_all_steps_are_taken(make_job: Any) -> None:
    assert pictures.first_step(make_job("1"), strength=0.5) == 0


def test_a_strength_that_leaves_no_step_is_refused(make_job: Any) -> None:
    with pytest.raises(errors.BadRequest, match=r"strength: 0.0 leaves no step"):
        pictures.first_step(make_job("1", source_image=b"file", strength=0.0), strength=0.6)


@pytest.mark.parametrize("size", [(32, 16), (100, 90), (41, 37)])
def test_a_picture_that_was_sized_before_is_not_changed_again(size: tuple[int, int]) -> None:
    width, height = size
    picture = pictures.read(file(gradient(41, 37)), field="image")
    sized = pictures.sized(picture, size)
    assert sized.size == size
    for see in (pictures.pixels, pictures.mask):
        assert torch.equal(see(sized, width=width, height=height), see(picture, width=width, height=height))


def test_a_picture_that_was_read_before_is_returned() -> None:
    picture = gradient(8, 8)
    assert pictures.read(picture, field="image") is picture
