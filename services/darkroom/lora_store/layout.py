"""The outer shape of a safetensors file, stricter than the safetensors library reads it.

An open file comes in; a `Layout` (metadata, and tensors whose bytes fill the file exactly) goes out, or InvalidArgument on `chunk` that
says what is wrong. Nothing is trusted before it is bounded, no byte of a tensor is read, and nothing in the file is ever executed.
`validate` goes on with what the tensors mean.

The library (0.8.0) accepts duplicate keys, headers padded at will, any number of empty tensors, metadata of any size and names with
"../", NUL or ESC. All of these are refused here.
"""

import json
import math
import re
from typing import IO, Any, NamedTuple

from darkroom import errors

# An SDXL adapter on every layer has 2,600 tensors in 0.4 MB. The worst JSON of this length is parsed in under 100 ms.
HEADER_BYTES_MAX = 512 << 10
TENSORS_MAX = 4096
METADATA_KEYS_MAX = 256
METADATA_BYTES_MAX = 64 << 10
NAME_CHARS_MAX = 256
DIMENSIONS_MAX = 4
DIMENSION_MAX = 1 << 31
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}

_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_METADATA_KEY = re.compile(r"[\x21-\x7e]{1,128}")
_METADATA_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_OTHERS = (
    (re.compile(rb"PK\x03\x04"), "a zip archive (a PyTorch checkpoint is one)"),
    (re.compile(rb"\x80[\x00-\x05]|\(dp\d|cposix|c__builtin__"), "a Python pickle, which can run code"),
    (re.compile(rb"\s*<"), "an HTML or XML page, perhaps of a failed download"),
    (re.compile(rb"version https://git-lfs"), "a Git LFS pointer, not the file itself"),
    (re.compile(rb"GGUF"), "a GGUF file"),
    (re.compile(rb"\x89HDF|\x93NUMPY|\x1f\x8b|7z\xbc\xaf"), "another archive or array file"),
)


class Tensor(NamedTuple):
    """One tensor: where its bytes lie in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset_bytes: int
    size_bytes: int


class Layout(NamedTuple):
    """What a file's header says."""

    metadata: dict[str, str]
    tensors: tuple[Tensor, ...]
    """In the order of their bytes."""


def refusal(text: str) -> errors.InvalidArgument:
    """The error for a file whose bytes are not what they must be."""
    return errors.InvalidArgument.of("chunk", text)


def read(file: IO[bytes], *, size_bytes: int) -> Layout:
    """Read and check the header of an open file of this length; InvalidArgument says what is wrong."""
    file.seek(0)
    start = file.read(64)
    length = int.from_bytes(start[:8], "little")
    if not 2 <= length <= min(HEADER_BYTES_MAX, size_bytes - 8) or start[8:9] != b"{":
        raise refusal(_not_safetensors(start, length))
    file.seek(8)
    header = _parse(file.read(length))
    metadata = _metadata(header.pop("__metadata__", {}))
    if not 1 <= len(header) <= TENSORS_MAX:
        raise refusal(f"must hold 1 to {TENSORS_MAX} tensors")
    tensors = [_tensor(index, name, entry, data_at=8 + length) for index, (name, entry) in enumerate(header.items())]
    tensors.sort(key=lambda tensor: tensor.offset_bytes)
    _check_contiguous(tensors, begin=8 + length, end=size_bytes)
    return Layout(metadata, tuple(tensors))


def _not_safetensors(start: bytes, length: int) -> str:
    if start[8:9] == b"{" and length > HEADER_BYTES_MAX:
        return f"the safetensors header must be at most {HEADER_BYTES_MAX} bytes"
    if start[8:9] == b"{":
        return "the safetensors header must be 2 bytes or more and end within the file, which may be cut off"
    for pattern, name in _OTHERS:
        if pattern.match(start):
            return f"is not a safetensors file but {name}"
    return "is not a safetensors file"


def _parse(header: bytes) -> dict[str, Any]:
    """The header's JSON object: no key twice, and no padding but the spaces that align it to 8 bytes."""
    stripped = header.rstrip(b" ")
    if len(header) - len(stripped) > (7 if len(header) % 8 == 0 else 0):
        raise refusal("the safetensors header must not be padded beyond its alignment to 8 bytes")
    try:
        parsed = json.loads(stripped.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise refusal("the safetensors header must be one JSON object in UTF-8") from error
    if type(parsed) is not dict:
        raise refusal("the safetensors header must be one JSON object in UTF-8")
    return parsed


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise refusal("the safetensors header must not name anything twice")
    return result


def _no_constant(constant: str) -> Any:
    raise ValueError("NaN and Infinity are not JSON")


def _metadata(entries: Any) -> dict[str, str]:
    if type(entries) is not dict or not all(type(value) is str for value in entries.values()):
        raise refusal("__metadata__ must be texts by name")
    if len(entries) > METADATA_KEYS_MAX or sum(map(len, [*entries, *entries.values()])) > METADATA_BYTES_MAX:
        raise refusal(f"__metadata__ must be at most {METADATA_KEYS_MAX} texts and {METADATA_BYTES_MAX} characters")
    for key, value in entries.items():
        if not _METADATA_KEY.fullmatch(key) or _METADATA_FORBIDDEN.search(value):
            raise refusal("__metadata__ must not contain control characters")
    return entries


def _tensor(index: int, name: str, entry: Any, *, data_at: int) -> Tensor:
    if len(name) > NAME_CHARS_MAX or not _NAME.fullmatch(name):
        raise refusal(f"the name of tensor {index} must be words joined by dots, at most {NAME_CHARS_MAX} characters")
    if type(entry) is not dict or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise refusal(f"tensor {name} must have dtype, shape and data_offsets alone")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if type(dtype) is not str or dtype not in ITEM_BYTES:
        raise refusal(f"the dtype of tensor {name} must be F32, F16 or BF16")
    if not _integers(shape, low=1, length_max=DIMENSIONS_MAX):
        raise refusal(f"the shape of tensor {name} must be at most {DIMENSIONS_MAX} sizes of at least 1")
    if not _integers(offsets, low=0, length_max=2) or len(offsets) != 2 or offsets[0] >= offsets[1]:
        raise refusal(f"the data_offsets of tensor {name} must be its begin and its end")
    size_bytes = math.prod(shape) * ITEM_BYTES[dtype]
    if offsets[1] - offsets[0] != size_bytes:
        raise refusal(f"the data_offsets of tensor {name} must be as far apart as its shape and dtype need")
    return Tensor(name, dtype, tuple(shape), data_at + offsets[0], size_bytes)


def _integers(values: Any, *, low: int, length_max: int) -> bool:
    return (
        type(values) is list
        and len(values) <= length_max
        and all(type(value) is int and low <= value <= DIMENSION_MAX for value in values)
    )


def _check_contiguous(tensors: list[Tensor], *, begin: int, end: int) -> None:
    for tensor in tensors:
        if tensor.offset_bytes != begin:
            raise refusal(f"tensor {tensor.name} must begin where the one before it ends, with no hole or overlap")
        begin += tensor.size_bytes
    if begin != end:
        raise refusal(
            "the file must end with its last tensor; it may be cut off"
            if begin > end
            else "the file must end with its last tensor"
        )
