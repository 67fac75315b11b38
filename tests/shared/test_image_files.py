"""Images' headers; `tests/media_store/test_sniff.py` throws files at them."""

import io
import struct

import pytest

from darkroom import image_files
from tests.media_store.conftest import image

PNG = image("PNG", width=40, height=30)


def size(data: bytes) -> image_files.Size | None:
    return image_files.size(io.BytesIO(data), size_bytes=len(data))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_type_and_size_are_read_from_the_head(form: str) -> None:
    data = image(form, width=40, height=30)
    assert image_files.media_type(data) == f"image/{form.lower()}"
    assert size(data) == (40, 30)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("left", [0, 3, 12, 45, -1])
def test_a_cut_file_has_none(form: str, left: int) -> None:
    assert size(image(form, width=40, height=30)[:left]) is None


def test_what_is_no_image_has_neither() -> None:
    assert image_files.media_type(b"GIF89a") is None
    assert size(b"GIF89a") is None


def test_a_png_must_have_all_of_its_chunks() -> None:
    end = PNG[-12:]
    assert size(PNG[:33] + end) is None
    assert size(PNG[:-13] + end) is None
    beyond = PNG[:33] + struct.pack(">I", 2**31) + PNG[37:]
    assert size(beyond) is None


@pytest.mark.parametrize(
    ("width", "height", "good"), [(4, 3, True), (5, 2, False), (2, 7, False), (4, 4, False), (0, 3, False)]
)
def test_sizes_are_bounded_by_side_and_by_area(width: int, height: int, good: bool) -> None:
    assert image_files.Size(width, height).is_within(side_max=4, pixels_max=12) is good
