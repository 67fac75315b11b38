"""What a file is, by its content; names and claims are not asked.

An open file comes in; its media type goes out, or InvalidArgument on `chunk`. Images' dimensions are read from their headers and bounded,
so that whoever decodes them later meets no bomb, and images must end where their format says, so that none is cut off or carries
something else behind it (`image_files`). Nothing is decoded here. `servicer` stores the answer.
"""

import re
from typing import IO

from darkroom import errors, image_files

SIDE_MAX = 32_768
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
_KINDS = (
    (re.compile(rb"RIFF....WAVE", re.DOTALL), "audio/wav"),
    (re.compile(rb"fLaC[\x00\x80]\x00\x00\x22"), "audio/flac"),
    (re.compile(rb"\x00\x00\x00[\x10-\x40]ftyp(?:isom|iso[2-9]|mp4[12]|avc1|M4V |dash|mmp4)"), "video/mp4"),
)


def media_type(file: IO[bytes], *, size_bytes: int, pixels_max: int) -> str:
    """The type of an open file of this length; InvalidArgument if it is not one of ours, cut off, or too many pixels."""
    file.seek(0)
    head = file.read(image_files.HEAD_BYTES)
    if name := image_files.media_type(head):
        _check_size(name, image_files.size(file, size_bytes=size_bytes), pixels_max=pixels_max)
        return name
    for pattern, name in _KINDS:
        if pattern.match(head):
            return name
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= min(size_bytes - 8, _SAFETENSORS_HEADER_MAX):
        return "application/vnd.safetensors"
    raise errors.InvalidArgument.of("chunk", "must be a PNG, JPEG, WEBP, MP4, WAV, FLAC or safetensors file")


def _check_size(name: str, size: image_files.Size | None, *, pixels_max: int) -> None:
    if size is None:
        raise errors.InvalidArgument.of("chunk", f"must be a whole {name} file, with nothing before or after it")
    if not size.is_within(side_max=SIDE_MAX, pixels_max=pixels_max):
        raise errors.InvalidArgument.of(
            "chunk", f"an image must be at most {SIDE_MAX} pixels wide and high, and {pixels_max} pixels in all"
        )
