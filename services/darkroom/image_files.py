"""What an image file says of itself: its type, its size, and whether all of it is there. Nothing is decoded.

An open file comes in; its media type and its dimensions go out, or None where its format says that something is missing or follows. So
whoever decodes it later meets no bomb (a 9.9 KB PNG can decode to 400 MB). The scheduler asks for pictures in requests, media_store for
what is uploaded; runners, which decode, hold pictures against the same bounds.
"""

import re
import struct
from typing import IO, NamedTuple

SOURCE_PIXELS_MAX = 64 << 20
"""In one picture that a generation starts from, before it is resized: 192 MiB decoded."""
SOURCE_SIDE_MAX = 16 << 10
"""Resizing takes longer the longer a side is: a strip of 64 x 1,000,000 pixels would hold a runner up for seconds."""
HEAD_BYTES = 64
PNG_CHUNKS_MAX = 1 << 16  # of 8 KiB, as libpng writes them, half a GiB
JPEG_SEGMENTS_MAX = 4096

_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_ALONE = frozenset(range(0xD0, 0xD8)) | {0x01}


class Size(NamedTuple):
    """Width and height of an image, pixels."""

    width: int
    height: int

    def is_within(self, *, side_max: int, pixels_max: int) -> bool:
        """Whether there is something of it, and no side nor the whole is above these."""
        return min(self) >= 1 and max(self) <= side_max and self.width * self.height <= pixels_max


def media_type(head: bytes) -> str | None:
    """Return the type of an image file that begins so; None if it is none of ours."""
    return next((name for name, (pattern, _) in _KINDS.items() if pattern.match(head)), None)


def size(file: IO[bytes], *, size_bytes: int) -> Size | None:
    """Return the size of the image in an open file of this length; None if it is not whole, or none of ours."""
    file.seek(0)
    head = file.read(HEAD_BYTES)
    name = media_type(head)
    return _KINDS[name][1](file, head, size_bytes) if name else None


def _png(file: IO[bytes], head: bytes, size_bytes: int) -> Size | None:
    """Walk the chunks, each of which says how long it is, to the last one."""
    if size_bytes < 45 or head[8:16] != b"\0\0\0\rIHDR" or _tail(file, size_bytes, len(_PNG_END)) != _PNG_END:
        return None
    at, has_pixels = 8, False
    for _ in range(PNG_CHUNKS_MAX):
        file.seek(at)
        start = file.read(8)
        at += 12 + int.from_bytes(start[:4], "big")
        if len(start) < 8 or at > size_bytes:
            return None
        has_pixels |= start[4:] == b"IDAT"
        if start[4:] == b"IEND":
            return Size(*struct.unpack(">II", head[16:24])) if has_pixels and at == size_bytes else None
    return None


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


_KINDS = {
    "image/png": (re.compile(rb"\x89PNG\r\n\x1a\n"), _png),
    "image/jpeg": (re.compile(rb"\xff\xd8\xff"), _jpeg),
    "image/webp": (re.compile(rb"RIFF....WEBP", re.DOTALL), _webp),
}
