import contextlib
import io
import json
import math
import resource
import tempfile

import numpy
import pytest
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st

from darkroom import errors
from darkroom.lora_store import domain, validate
from tests.lora_store import adapters
from tests.lora_store.adapters import ALPHA, DOWN, UP

NAN = float("nan")


def check(raw: bytes) -> domain.Numbers:
    return validate.check(io.BytesIO(raw), size_bytes=len(raw))


def built(parts: adapters.Tensors, metadata: dict[str, str] | None = None) -> bytes:
    header, data = adapters.entries(parts)
    return adapters.file({"__metadata__": metadata, **header} if metadata else header, data)


def with_alpha(dtype: str, values: list[float], shape: tuple[int, ...] = ()) -> bytes:
    return built({**adapters.tensors(), ALPHA: (dtype, shape, values)})


def config(**entries: object) -> bytes:
    return built(adapters.tensors(), {"lora_adapter_metadata": json.dumps(entries)})


GOOD = adapters.tensors()
BAD = {
    "another kind of key": (built({"lora_unet_down_blocks_0.lora_down.weight": ("F32", (1,), [1.0])}), "must be named"),
    "another component": (built({"vae." + DOWN: GOOD[DOWN], "vae." + UP: GOOD[UP]}), "must be named"),
    "no module": (built({"transformer.lora_A.weight": GOOD[DOWN]}), "must be named"),
    "A without B": (built({DOWN: GOOD[DOWN]}), f"{UP} is missing"),
    "B without A": (built({UP: GOOD[UP]}), f"{DOWN} is missing"),
    "alpha alone": (
        built({**GOOD, "transformer.other.alpha": ("F32", (), [1.0])}),
        "transformer.other.lora_A.weight is missing",
    ),
    "ranks differ": (built({DOWN: GOOD[DOWN], UP: ("F32", (3, 3), [1.0] * 9)}), "rank 2, but lora_B 3"),
    "A is a vector": (built({DOWN: ("F32", (8,), [1.0] * 8), UP: GOOD[UP]}), "[rank, inputs]"),
    "A is a cube": (built({DOWN: ("F32", (2, 2, 2), [1.0] * 8), UP: ("F32", (3, 2, 1), [1.0] * 6)}), "[rank, inputs]"),
    "B is wide": (
        built({DOWN: ("F32", (1, 1, 2, 2), [1.0] * 4), UP: ("F32", (1, 1, 2, 2), [1.0] * 4)}),
        "[rank, inputs]",
    ),
    "rank too great": (
        built({DOWN: ("F32", (513, 1), [1.0] * 513), UP: ("F32", (1, 513), [1.0] * 513)}),
        "at most 512",
    ),
    "two dtypes": (built({DOWN: ("F16", (2, 4), [1.0] * 8), UP: GOOD[UP]}), "one dtype"),
    **{
        f"{value} in F32 {name[-8:]}": (
            built({**GOOD, name: ("F32", GOOD[name][1], [*GOOD[name][2][1:], value])}),
            f"{name} must not contain NaN",
        )
        for name in (DOWN, UP)
        for value in (NAN, math.inf, -math.inf)
    },
    **{
        f"{value} in F16": (
            built({**adapters.tensors(dtype="F16"), UP: ("F16", (3, 2), [value] + [1.0] * 5)}),
            "must not contain NaN",
        )
        for value in (NAN, math.inf, -math.inf)
    },
    **{
        f"{bits:#x} in BF16": (
            built({**adapters.tensors(dtype="BF16"), UP: ("BF16", (3, 2), [0x3F80] * 5 + [bits])}),
            "must not contain NaN",
        )
        for bits in (0x7F80, 0xFF80, 0x7FC0, 0xFFFF)
    },
    "alpha 0": (with_alpha("F32", [0.0]), "above 0"),
    "alpha -0": (with_alpha("F32", [-0.0]), "above 0"),
    "alpha negative": (with_alpha("F16", [-1.0]), "above 0"),
    "alpha negative bf16": (with_alpha("BF16", [0xBF80]), "above 0"),
    "alpha NaN": (with_alpha("F32", [NAN]), "must not contain NaN"),
    "alpha infinite": (with_alpha("F16", [math.inf]), "must not contain NaN"),
    "alpha of two numbers": (with_alpha("F32", [1.0, 1.0], (2,)), "one number"),
    "metadata not JSON": (built(GOOD, {"lora_adapter_metadata": "{"}), "JSON object"),
    "metadata a list": (built(GOOD, {"lora_adapter_metadata": "[]"}), "JSON object"),
    "metadata deep": (built(GOOD, {"lora_adapter_metadata": "[" * 60_000}), "JSON object"),
    "lora_alpha 0": (config(**{"transformer.lora_alpha": 0}), "lora_alpha"),
    "lora_alpha NaN": (config(**{"transformer.lora_alpha": NAN}), "lora_alpha"),
    "lora_alpha infinite": (config(lora_alpha=math.inf), "lora_alpha"),
    "lora_alpha text": (config(lora_alpha="8"), "lora_alpha"),
    "DoRA": (config(**{"transformer.use_dora": True}), "DoRA"),
    "rsLoRA": (config(use_rslora=True), "DoRA"),
    "alpha pattern": (config(**{"transformer.alpha_pattern": {"a": 1}}), "DoRA"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said(case: str) -> None:
    raw, text = BAD[case]
    with pytest.raises(errors.InvalidArgument) as refusal:
        check(raw)
    (violation,) = refusal.value.violations
    assert violation.field == "chunk"
    assert text in violation.description


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_a_good_adapter(dtype: str) -> None:
    raw = adapters.good(dtype=dtype, rank=3, modules=2)
    assert check(raw) == domain.Numbers(rank=3, pairs=2, dtype=dtype)


@pytest.mark.parametrize(
    ("dtype", "value"), [("F32", 3.4e38), ("F32", -1e-45), ("F16", 65504.0), ("BF16", 0x7F7F), ("BF16", 0xFF7F)]
)
def test_the_greatest_and_least_finite_numbers_pass(dtype: str, value: float) -> None:
    parts = adapters.tensors(dtype=dtype)
    assert check(built({**parts, UP: (dtype, (3, 2), [value] * 6)})).pairs == 1


def test_alphas_convolutions_and_all_components() -> None:
    parts: adapters.Tensors = {}
    for prefix in ("unet.conv", "text_encoder.q", "text_encoder_2.q", "transformer.x"):
        parts[f"{prefix}.lora_A.weight"] = ("F16", (2, 1, 3, 3), [1.0] * 18)
        parts[f"{prefix}.lora_B.weight"] = ("F16", (4, 2, 1, 1), [1.0] * 8)
        parts[f"{prefix}.alpha"] = ("BF16", (), [0x3F80])
    assert check(built(parts, {"lora_adapter_metadata": '{"transformer.lora_alpha": 8}'})) == domain.Numbers(
        rank=2, pairs=4, dtype="F16"
    )


def test_what_the_library_writes_is_good() -> None:
    raw = safetensors.numpy.save(
        {DOWN: numpy.ones((4, 64), numpy.float32), UP: numpy.ones((64, 4), numpy.float32)}, {"format": "pt"}
    )
    assert check(raw) == domain.Numbers(rank=4, pairs=1, dtype="F32")


def test_a_number_at_the_end_of_a_big_tensor_is_seen_in_little_memory() -> None:
    columns = validate.PIECE_BYTES * 4 + 5
    with tempfile.TemporaryFile() as file:
        size_bytes = _sparse(file, columns=columns)
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(errors.InvalidArgument, match="NaN"):
            validate.check(file, size_bytes=size_bytes)
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    assert grown_kib * 1024 < size_bytes


def _sparse(file, *, columns: int) -> int:
    """Zeros in F32, 16 MiB and more, and one NaN at the end of A."""
    sizes = [columns * 4, 4]
    header = {
        DOWN: {"dtype": "F32", "shape": [1, columns], "data_offsets": [0, sizes[0]]},
        UP: {"dtype": "F32", "shape": [1, 1], "data_offsets": [sizes[0], sum(sizes)]},
    }
    start = adapters.file(header, b"")
    file.write(start)
    file.seek(len(start) + sizes[0] - 4)
    file.write(adapters.numbers("F32", [NAN, 1.0]))
    return len(start) + sum(sizes)


VALID = adapters.good()


@settings(max_examples=400, deadline=2000)
@given(st.data())
def test_a_mutated_file_is_refused_or_good_but_never_crashes(data: st.DataObject) -> None:
    raw = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        piece = data.draw(
            st.sampled_from(
                [b"", b'"', b"{", b"}", b"[", b"]", b",", b"0", b"9" * 20, b"\xff", b"\0", b" ", b"-", b"e9"]
            )
        )
        raw[at : at + data.draw(st.integers(0, 3))] = piece
    _refused_or_good(bytes(raw))


@settings(max_examples=300, deadline=2000)
@given(st.binary(max_size=400))
@example(b"\0" * 400)
def test_any_header_is_refused_or_good_but_never_crashes(header: bytes) -> None:
    _refused_or_good(adapters.file(header, b"\0" * 56))


def _refused_or_good(raw: bytes) -> None:
    with contextlib.suppress(errors.InvalidArgument):
        assert check(raw).pairs == 1
