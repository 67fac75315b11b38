import io
import json

import pytest

from darkroom import errors
from darkroom.lora_store import layout
from tests.lora_store import adapters

HEADER, DATA = adapters.entries(adapters.tensors())
A, B = HEADER[adapters.DOWN], HEADER[adapters.UP]
COMPACT = json.dumps(HEADER).encode()


def changed(name: str, **changes: object) -> bytes:
    return adapters.file({**HEADER, name: {**HEADER[name], **changes}}, DATA)


def entry_text(text: str) -> bytes:
    return adapters.file(text, DATA, align=False)


BAD = {
    "empty": (b"", "not a safetensors file"),
    "seven bytes": (b"\x10\0\0\0\0\0\0", "not a safetensors file"),
    "pickle": (b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x05posix", "pickle"),
    "zip": (b"PK\x03\x04\x14\0\0\0\x08\0", "zip archive"),
    "html": (b"<!DOCTYPE html><html>not found</html>", "HTML"),
    "html after spaces": (b"\n  <html><body></body></html>", "HTML"),
    "gzip": (b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "archive"),
    "gguf": (b"GGUF\x03\0\0\0\0\0\0\0", "GGUF"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "LFS"),
    "random": (bytes(range(200, 256)), "not a safetensors file"),
    "no header": (adapters.file(b"", DATA, length=0), "not a safetensors file"),
    "header of one byte": (adapters.file(b"{", DATA, length=1), "2 bytes or more"),
    "header past the end": (adapters.file(HEADER, b"", length=1000), "cut off"),
    "header of 2**63": (adapters.file(HEADER, DATA, length=2**63), "at most"),
    "header over the limit": (
        adapters.file(HEADER, bytes(layout.HEADER_BYTES_MAX), length=layout.HEADER_BYTES_MAX + 1),
        "at most",
    ),
    "header is a list": (adapters.file(b"[1, 2]  ", DATA), "not a safetensors file"),
    "header is cut": (adapters.file(COMPACT, DATA, length=len(COMPACT) - 1), "one JSON object"),
    "two objects": (adapters.file(COMPACT + b"{}", DATA), "one JSON object"),
    "invalid utf-8": (adapters.file(COMPACT[:2] + b"\xff" + COMPACT[3:], DATA), "one JSON object"),
    "deep nesting": (adapters.file(b'{"a":' * 100_000 + b"1", DATA), "one JSON object"),
    "long integer": (adapters.file(b'{"a":' + b"9" * 5000 + b"}", DATA), "one JSON object"),
    "NaN": (adapters.file(b'{"a":NaN}', DATA), "one JSON object"),
    "padded by 8 spaces": (adapters.file(COMPACT + b" " * (-len(COMPACT) % 8 + 8), DATA), "padded"),
    "padded out of line": (adapters.file(COMPACT + b" " * (-len(COMPACT) % 8 + 1), DATA), "padded"),
    "padded with newlines": (adapters.file(b"{" + b"\n" * (layout.HEADER_BYTES_MAX) + COMPACT[1:], DATA), "at most"),
    "same tensor twice": (entry_text(COMPACT.decode()[:-1] + "," + COMPACT.decode()[1:]), "twice"),
    "same key in a tensor twice": (
        entry_text(COMPACT.decode().replace('"dtype"', '"dtype": "F32", "dtype"', 1)),
        "twice",
    ),
    "no tensors": (adapters.file({}, b""), "tensors"),
    "only metadata": (adapters.file({"__metadata__": {"a": "b"}}, b""), "tensors"),
    "too many tensors": (
        adapters.file({f"t{i}": [] for i in range(layout.TENSORS_MAX + 1)}, b""),
        "tensors",
    ),
    "metadata is a list": (adapters.file({"__metadata__": [], **HEADER}, DATA), "__metadata__"),
    "metadata holds numbers": (adapters.file({"__metadata__": {"a": 1}, **HEADER}, DATA), "__metadata__"),
    "metadata too long": (adapters.file({"__metadata__": {"a": "b" * 70_000}, **HEADER}, DATA), "__metadata__"),
    "metadata of many keys": (
        adapters.file({"__metadata__": {str(i): "" for i in range(300)}, **HEADER}, DATA),
        "__metadata__",
    ),
    "metadata with escapes": (adapters.file({"__metadata__": {"a": "\x1b[31m"}, **HEADER}, DATA), "control"),
    "metadata key with a newline": (adapters.file({"__metadata__": {"a\n": "b"}, **HEADER}, DATA), "control"),
    "metadata with a surrogate": (adapters.file({"__metadata__": {"a": "\ud800"}, **HEADER}, DATA), "control"),
    **{
        f"name {name[:12]!r}": (adapters.file({name: A, adapters.UP: B}, DATA), "the name of tensor 0")
        for name in ("", ".", "a..b", "../../etc/passwd", "a/b", "a\0b", "a\x1b[0m", "a b", "é", "a\n", "a" * 257)
    },
    "entry is a number": (adapters.file({**HEADER, adapters.UP: 7}, DATA), "alone"),
    "entry lacks its shape": (
        adapters.file({adapters.DOWN: {"dtype": "F32", "data_offsets": [0, 4]}}, b"0000"),
        "alone",
    ),
    "entry has more": (changed(adapters.UP, stride=[1]), "alone"),
    **{
        f"dtype {dtype!r}": (changed(adapters.DOWN, dtype=dtype), "dtype")
        for dtype in ("F64", "I8", "F8_E4M3", "BOOL", "f32", "", None, 4, ["F32"])
    },
    **{
        f"shape {shape!r}": (changed(adapters.DOWN, shape=shape), "shape")
        for shape in ([2, 0], [-2, -4], [2.0, 4], ["2", 4], [True, 8], [2**40, 4], [1] * 5, "24", None, {"0": 2})
    },
    **{
        f"offsets {offsets!r}": (changed(adapters.DOWN, data_offsets=offsets), "data_offsets")
        for offsets in (
            [0],
            [0, 32, 64],
            [32, 0],
            [0, 0],
            [-1, 31],
            [0.0, 32],
            [0, 2**40],
            [0, 31],
            [0, 36],
            None,
            "ab",
        )
    },
    "product overflows": (changed(adapters.DOWN, shape=[2**31, 2**31, 2**31, 2**31]), "as far apart"),
    "overlap": (changed(adapters.UP, data_offsets=[28, 52]), "hole or overlap"),
    "hole at the start": (adapters.file({adapters.DOWN: {**A, "data_offsets": [4, 36]}}, bytes(36)), "hole"),
    "hole between": (adapters.file({**HEADER, adapters.UP: {**B, "data_offsets": [36, 60]}}, bytes(60)), "hole"),
    "cut off": (adapters.file(HEADER, DATA)[:-1], "cut off"),
    "more behind": (adapters.file(HEADER, DATA) + b"PK\x03\x04", "end with its last tensor"),
}


def read(raw: bytes) -> layout.Layout:
    return layout.read(io.BytesIO(raw), size_bytes=len(raw))


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said(case: str) -> None:
    raw, text = BAD[case]
    with pytest.raises(errors.InvalidArgument) as refusal:
        read(raw)
    (violation,) = refusal.value.violations
    assert violation.field == "chunk"
    assert text in violation.description


def test_a_good_layout() -> None:
    raw = adapters.file({"__metadata__": {"format": "pt", "note": "two\nlines"}, **HEADER}, DATA)
    found = read(raw)
    assert found.metadata == {"format": "pt", "note": "two\nlines"}
    assert [(tensor.name, tensor.dtype, tensor.shape, tensor.size_bytes) for tensor in found.tensors] == [
        (adapters.DOWN, "F32", (2, 4), 32),
        (adapters.UP, "F32", (3, 2), 24),
    ]
    assert [tensor.offset_bytes for tensor in found.tensors] == [len(raw) - 56, len(raw) - 24]


def test_tensors_may_lie_in_another_order_than_their_names() -> None:
    header = {adapters.UP: HEADER[adapters.UP], adapters.DOWN: HEADER[adapters.DOWN]}
    assert [tensor.name for tensor in read(adapters.file(header, DATA)).tensors] == [adapters.DOWN, adapters.UP]


def test_a_scalar_and_an_unaligned_header_are_fine() -> None:
    header, data = adapters.entries({adapters.ALPHA: ("F32", (), [1.0])})
    (tensor,) = read(adapters.file(json.dumps(header), data, align=False)).tensors
    assert tensor.shape == ()
