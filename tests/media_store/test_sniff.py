import io
import struct
import zlib

import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from darkroom import errors
from darkroom.media_store import sniff
from tests.lora_store import adapters
from tests.media_store.conftest import image, png

EXIF = Image.Exif()
EXIF[0x9286] = "x" * 60_000  # a segment of almost the greatest length before the frame
ICC = bytes(200_000)  # several segments
FTYP = b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41"


def animation() -> bytes:
    file = io.BytesIO()
    frames = [Image.new("RGBA", (8, 8), (shade, 0, 0, 128)) for shade in (0, 255)]
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:])
    return file.getvalue()


GOOD = {
    "png": (png(), "image/png"),
    "jpeg": (image("JPEG"), "image/jpeg"),
    "jpeg progressive": (image("JPEG", progressive=True), "image/jpeg"),
    "jpeg with metadata": (image("JPEG", exif=EXIF, icc_profile=ICC), "image/jpeg"),
    "webp lossy": (image("WEBP", width=9, height=7), "image/webp"),
    "webp lossless": (image("WEBP", lossless=True), "image/webp"),
    "webp extended": (image("WEBP", exif=b"Exif\0\0" + bytes(8)), "image/webp"),
    "webp animated": (animation(), "image/webp"),
    "mp4": (FTYP + b"\0\0\0\x08free", "video/mp4"),
    "wav": (b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0", "audio/wav"),
    "flac": (b"fLaC\0\0\0\x22" + bytes(34), "audio/flac"),
    "safetensors": (adapters.good(), "application/vnd.safetensors"),
}

HUGE_PNG = png()[:16] + struct.pack(">II", 30_000, 30_000) + png()[24:]
JPEG = image("JPEG")


def jpeg_of(width: int, height: int) -> bytes:
    at = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:at] + struct.pack(">HH", height, width) + JPEG[at + 4 :]


BAD = {
    "empty": b"",
    "text": b"hello",
    "html": b"<html><script>alert(1)</script></html>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"></svg>',
    "pdf": b"%PDF-1.7",
    "gif": image("GIF"),
    "bmp": image("BMP"),
    "tiff": image("TIFF"),
    "zip": b"PK\x03\x04" + bytes(60),
    "elf": b"\x7fELF" + bytes(60),
    "pickle": b"\x80\x04\x95" + bytes(60),
    "gzip": b"\x1f\x8b" + bytes(60),
    "avi": b"RIFF\0\0\0\0AVI " + bytes(60),
    "heic": b"\0\0\0\x18ftypheic" + bytes(60),
    "safetensors, cut": adapters.good()[:40],
    "png signature alone": png()[:8],
    "png, cut": png()[:-1],
    "png, cut in the middle": png()[:-30] + png()[-12:],
    "png without pixels": png()[:33] + png()[-12:],
    "png of empty chunks": png()[:33] + (bytes(4) + b"tEXt" + bytes(4)) * 70_000 + png()[33:],
    "png, and more": png() + b"<script>",
    "png, first chunk another": png()[:12] + b"tEXt" + png()[16:],
    "png of no width": png()[:16] + struct.pack(">II", 0, 8) + png()[24:],
    "png bomb": HUGE_PNG,
    "png too wide": png()[:16] + struct.pack(">II", 2**31, 1) + png()[24:],
    "jpeg, cut": JPEG[:-1],
    "jpeg, and more": JPEG + b"PK\x03\x04",
    "jpeg bomb": jpeg_of(65_535, 65_535),
    "jpeg of no height": jpeg_of(8, 0),
    "jpeg without a frame": b"\xff\xd8\xff\xd9",
    "jpeg whose scan comes first": b"\xff\xd8\xff\xda\0\x08" + bytes(6) + b"\xff\xd9",
    "jpeg of a segment of no length": b"\xff\xd8\xff\xe0\0\0" + bytes(20) + b"\xff\xd9",
    "jpeg of fill bytes": b"\xff\xd8" + b"\xff" * 10_000 + b"\xd9",
    "jpeg of empty segments": b"\xff\xd8" + b"\xff\xe0\0\2" * 10_000 + b"\xff\xd9",
    "webp, cut": image("WEBP")[:-1],
    "webp, and more": image("WEBP") + b"x",
    "webp of an unknown chunk": b"RIFF\x16\0\0\0WEBPJUNK" + bytes(14),
    "webp bomb": b"RIFF\x16\0\0\0WEBPVP8X" + b"\x0a\0\0\0" + bytes(4) + b"\xff\xff\xff\xff\xff\xff",
}  # fmt: skip


def media_type(raw: bytes, *, pixels_max: int = 1 << 26) -> str:
    return sniff.media_type(io.BytesIO(raw), size_bytes=len(raw), pixels_max=pixels_max)


@pytest.mark.parametrize("case", GOOD)
def test_the_type_is_that_of_the_content(case: str) -> None:
    raw, expected = GOOD[case]
    assert media_type(raw) == expected
    assert expected in sniff.EXTENSIONS


@pytest.mark.parametrize("case", BAD)
def test_what_is_none_of_ours_or_not_whole_is_refused(case: str) -> None:
    with pytest.raises(errors.InvalidArgument) as refusal:
        media_type(BAD[case])
    assert [violation.field for violation in refusal.value.violations] == ["chunk"]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": EXIF}])
def test_pixels_are_counted_without_decoding(form: str, options: dict[str, object]) -> None:
    if form == "WEBP":
        options = {**options, "exif": b"Exif\0\0"} if "exif" in options else options
    raw = image(form, width=40, height=30, **options)
    media_type(raw, pixels_max=1200)
    with pytest.raises(errors.InvalidArgument, match="1199 pixels"):
        media_type(raw, pixels_max=1199)


def test_a_real_bomb_is_small_and_refused() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    side = 20_000
    lines = zlib.compress(bytes(side * (side // 8 + 1)), 9)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    bomb += chunk(b"IDAT", lines) + chunk(b"IEND", b"")
    assert len(bomb) < 60_000
    with pytest.raises(errors.InvalidArgument, match="pixels"):
        media_type(bomb)


@settings(max_examples=300, deadline=2000)
@given(st.sampled_from(sorted(GOOD)), st.integers(0, 200), st.binary(max_size=8))
def test_a_mutated_file_is_typed_or_refused_but_never_crashes(case: str, at: int, piece: bytes) -> None:
    raw = GOOD[case][0]
    raw = raw[:at] + piece + raw[at + len(piece) :]
    try:
        assert media_type(raw) in sniff.EXTENSIONS
    except errors.InvalidArgument:
        return


def test_the_library_reads_what_is_called_safetensors() -> None:
    assert safetensors.numpy.load(GOOD["safetensors"][0])
