"""Adapter files, good and bad, built byte by byte."""

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

ITEM = {"F64": "<d", "F32": "<f", "F16": "<e", "BF16": "<H", "I32": "<i", "U8": "<B"}
DOWN = "transformer.blocks.0.attn.to_q.lora_A.weight"
UP = "transformer.blocks.0.attn.to_q.lora_B.weight"
ALPHA = "transformer.blocks.0.attn.to_q.alpha"

Tensors = dict[str, tuple[str, Sequence[int], Sequence[float]]]


def numbers(dtype: str, values: Sequence[float]) -> bytes:
    """Little-endian numbers; BF16 takes the raw 16 bits."""
    return b"".join(struct.pack(ITEM[dtype], value) for value in values)


def tensors(*, rank: int = 2, dtype: str = "F32", modules: int = 1, seed: float = 0.5) -> Tensors:
    """Pairs of `modules` linear layers, 4 in and 3 out."""
    value = 0x3F00 if dtype == "BF16" else seed
    found: Tensors = {}
    for index in range(modules):
        found[DOWN.replace(".0.", f".{index}.")] = (dtype, (rank, 4), [value] * rank * 4)
        found[UP.replace(".0.", f".{index}.")] = (dtype, (3, rank), [value] * rank * 3)
    return found


def entries(parts: Tensors) -> tuple[dict[str, Any], bytes]:
    """The header's entries, and the data behind it."""
    header: dict[str, Any] = {}
    data = b""
    for name, (dtype, shape, values) in parts.items():
        raw = numbers(dtype, values)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return header, data


def file(
    header: Mapping[str, Any] | str | bytes, data: bytes, *, length: int | None = None, align: bool = True
) -> bytes:
    """A safetensors file of a header (an object, or its exact text) and data."""
    text = json.dumps(header) if isinstance(header, Mapping) else header
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    if align and isinstance(header, Mapping):
        raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def good(**options: Any) -> bytes:
    """A whole good adapter."""
    return file(*entries(tensors(**options)))
