"""What a file is, by its content; names and claims are not asked.

An open file comes in; its media type goes out, or InvalidArgument on `chunk`. Images' dimensions are read from their headers and bounded,
so that whoever decodes them later meets no bomb (a 9.9 KB PNG can decode to 400 MB), and images must end where their format
says, so that none is cut off or carries something else behind it. Nothing is decoded here. `servicer` stores the answer.
"""

import re
import struct
from collections.abc import Callable
from typing import IO, NamedTuple

from darkroom import errors

HEAD_BYTES = 64
SIDE_MAX = 32_768
JPEG_SEGMENTS_MAX = 4096
EXTENSIONS = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "video/mp4": "mp4",
    "audio/wav": "wav",
    "audio/flac": "flac",
    "application/vnd.safetensors": "safetensors",
}

_SAFETENSORS_HEADER_MAX = 100 << 20  # the library's own bound
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_ALONE = frozenset(range(0xD0, 0xD8)) | {0x01}


class Size(NamedTuple):
    """Width and height of an image, pixels."""

    width: int
    height: int


def media_type(file: IO[bytes], *, size_bytes: int, pixels_max: int) -> str:
    """The type of an open file of this length; InvalidArgument if it is not one of ours, cut off, or too many pixels."""
    file.seek(0)
    head = file.read(HEAD_BYTES)
    for pattern, name, measure in _KINDS:
        if pattern.match(head):
            if measure is not None:
                _check_size(name, measure(file, head, size_bytes), pixels_max=pixels_max)
            return name
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= min(size_bytes - 8, _SAFETENSORS_HEADER_MAX):
        return "application/vnd.safetensors"
    raise errors.InvalidArgument.of("chunk", "must be a PNG, JPEG, WEBP, MP4, WAV, FLAC or safetensors file")


def _check_size(name: str, size: Size | None, *, pixels_max: int) -> None:
    if size is None:
        raise errors.InvalidArgument.of("chunk", f"must be a whole {name} file, with nothing before or after it")
    if not (1 <= size.width <= SIDE_MAX and 1 <= size.height <= SIDE_MAX and size.width * size.height <= pixels_max):
        raise errors.InvalidArgument.of(
            "chunk", f"an image must be at most {SIDE_MAX} pixels wide and high, and {pixels_max} pixels in all"
        )


def _png(file: IO[bytes], head: bytes, size_bytes: int) -> Size | None:
    if size_bytes < 45 or head[8:16] != b"\0\0\0\rIHDR" or _tail(file, size_bytes, len(_PNG_END)) != _PNG_END:
        return None
    return Size(*struct.unpack(">II", head[16:24]))


def _jpeg(file: IO[bytes], head: bytes, size_bytes: int) -> Size | None:
    """Walk the segments to the frame header."""
    if _tail(file, size_bytes, 2) != b"\xff\xd9":
        return None
    file.seek(2)
    for _ in range(JPEG_SEGMENTS_MAX):
        start = file.read(2)
        if len(start) < 2 or start[0] != 0xFF:
            return None
        if start[1] == 0xFF:  # a fill byte before a marker
            file.seek(-1, 1)
        elif start[1] not in _JPEG_ALONE:
            segment = file.read(7)
            length = int.from_bytes(segment[:2], "big")
            if len(segment) < 7 or length < 2 or start[1] == 0xDA:
                return None
            if start[1] in _JPEG_FRAMES:
                height, width = struct.unpack(">HH", segment[3:7])
                return Size(width, height)
            file.seek(length - 7, 1)
    return None


def _webp(file: IO[bytes], head: bytes, size_bytes: int) -> Size | None:
    if len(head) < 30 or int.from_bytes(head[4:8], "little") + 8 != size_bytes:
        return None
    kind = head[12:16]
    if kind == b"VP8X":
        return Size(1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little"))
    if kind == b"VP8L" and head[20] == 0x2F:
        bits = int.from_bytes(head[21:25], "little")
        return Size(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    if kind == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        return Size(int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF)
    return None


def _tail(file: IO[bytes], size_bytes: int, count: int) -> bytes:
    file.seek(max(0, size_bytes - count))
    return file.read(count)


_Measure = Callable[[IO[bytes], bytes, int], Size | None]
_KINDS: tuple[tuple[re.Pattern[bytes], str, _Measure | None], ...] = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png", _png),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg", _jpeg),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp", _webp),
    (re.compile(rb"RIFF....WAVE", re.DOTALL), "audio/wav", None),
    (re.compile(rb"fLaC[\x00\x80]\x00\x00\x22"), "audio/flac", None),
    (re.compile(rb"\x00\x00\x00[\x10-\x40]ftyp(?:isom|iso[2-9]|mp4[12]|avc1|M4V |dash|mmp4)"), "video/mp4", None),
)
