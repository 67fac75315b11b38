"""Whether a file is an adapter that a runner can use: pairs of small matrices, and nothing but finite numbers.

An open file comes in (spooled by `servicer`); `domain.Numbers` go out to `store`, or InvalidArgument on `chunk` that names the tensor.
`layout` has checked the file's shape; here the names must form pairs as PEFT and diffusers write them,

    transformer.<module>.lora_A.weight   [rank, inputs]  (or [rank, inputs, height, width])
    transformer.<module>.lora_B.weight   [outputs, rank]
    transformer.<module>.alpha           one number, optional

(`unet.` and `text_encoder.` likewise), and the bytes are scanned in pieces: the memory needed is that of one piece. Whether the modules
are those of the base model is seen by the runner, which has the model.
"""

import json
import math
import re
import struct
from collections.abc import Mapping
from typing import IO, NamedTuple

from darkroom.lora_store import domain, layout

RANK_MAX = 512
PIECE_BYTES = 1 << 20

_KEY = re.compile(
    r"(?P<module>(?:transformer|unet|text_encoder(?:_2)?)\..+)\.(?P<part>lora_A\.weight|lora_B\.weight|alpha)"
)
_UNSUPPORTED = re.compile(r"(?:.*\.)?(?:use_dora|use_rslora|alpha_pattern|lora_bias)")
_ALPHA = re.compile(r"(?:.*\.)?lora_alpha")


class _Exponent(NamedTuple):
    """How to see in a little-endian number's two highest bytes that its exponent is all ones: NaN or infinity."""

    item_bytes: int
    high: bytes
    """Translation of the highest byte to 1 if its share of the exponent is all ones, else 0."""
    next: bytes
    """The same for the byte below it."""


def _table(mask: int) -> bytes:
    return bytes(byte & mask == mask for byte in range(256))


_EXPONENTS = {
    "F32": _Exponent(4, _table(0x7F), _table(0x80)),
    "BF16": _Exponent(2, _table(0x7F), _table(0x80)),
    "F16": _Exponent(2, _table(0x7C), _table(0)),
}


def check(file: IO[bytes], *, size_bytes: int) -> domain.Numbers:
    """Check a whole file; InvalidArgument on `chunk` says what is wrong with it."""
    found = layout.read(file, size_bytes=size_bytes)
    _check_metadata(found.metadata)
    modules = _by_module(found.tensors)
    ranks = [_rank(module, parts) for module, parts in modules.items()]
    dtypes = {tensor.dtype for tensor in found.tensors if not tensor.name.endswith(".alpha")}
    if len(dtypes) > 1:
        raise layout.refusal("all lora_A and lora_B tensors must have one dtype")
    for tensor in found.tensors:
        _check_finite(file, tensor)
        if tensor.name.endswith(".alpha"):
            _check_alpha(file, tensor)
    return domain.Numbers(rank=max(ranks), pairs=len(ranks), dtype=dtypes.pop())


def _check_metadata(metadata: Mapping[str, str]) -> None:
    """What diffusers writes beside the tensors: an alpha must be one, and variants with other arithmetic are refused."""
    try:
        config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        entries = list(config.items())
    except (ValueError, RecursionError, AttributeError) as error:
        raise layout.refusal("lora_adapter_metadata in __metadata__ must be a JSON object") from error
    for name, value in entries:
        if value and _UNSUPPORTED.fullmatch(name):
            raise layout.refusal("lora_adapter_metadata must not ask for DoRA, rsLoRA, alpha patterns or biases")
        if _ALPHA.fullmatch(name) and not (type(value) in (int, float) and 0 < value < math.inf):
            raise layout.refusal("lora_alpha in lora_adapter_metadata must be a finite number above 0")


def _by_module(tensors: tuple[layout.Tensor, ...]) -> dict[str, dict[str, layout.Tensor]]:
    modules: dict[str, dict[str, layout.Tensor]] = {}
    for tensor in tensors:
        match = _KEY.fullmatch(tensor.name)
        if match is None:
            raise layout.refusal(
                f"tensor {tensor.name} must be named (transformer|unet|text_encoder).<module>"
                ".lora_A.weight, .lora_B.weight or .alpha"
            )
        modules.setdefault(match["module"], {})[match["part"]] = tensor
    return modules


def _rank(module: str, parts: Mapping[str, layout.Tensor]) -> int:
    """The rank of a pair whose shapes fit each other."""
    for part in ("lora_A.weight", "lora_B.weight"):
        if part not in parts:
            raise layout.refusal(f"tensor {module}.{part} is missing")
    down, up = parts["lora_A.weight"].shape, parts["lora_B.weight"].shape
    if len(down) not in (2, 4) or len(up) != len(down) or any(size != 1 for size in up[2:]):
        raise layout.refusal(f"{module}: lora_A must be [rank, inputs] and lora_B [outputs, rank]")
    rank = down[0]
    if up[1] != rank:
        raise layout.refusal(f"{module}: lora_A has rank {rank}, but lora_B {up[1]}")
    if rank > RANK_MAX:
        raise layout.refusal(f"{module}: the rank must be at most {RANK_MAX}")
    if "alpha" in parts and math.prod(parts["alpha"].shape) != 1:
        raise layout.refusal(f"tensor {module}.alpha must be one number")
    return rank


def _check_finite(file: IO[bytes], tensor: layout.Tensor) -> None:
    """Refuse NaN and infinities: numbers whose exponent is all ones."""
    exponent = _EXPONENTS[tensor.dtype]
    file.seek(tensor.offset_bytes)
    for start in range(0, tensor.size_bytes, PIECE_BYTES):
        piece = file.read(min(PIECE_BYTES, tensor.size_bytes - start))
        high = piece[exponent.item_bytes - 1 :: exponent.item_bytes].translate(exponent.high)
        if 1 not in high:  # real weights are far from the greatest numbers, so this is nearly always all
            continue
        low = piece[exponent.item_bytes - 2 :: exponent.item_bytes].translate(exponent.next)
        if int.from_bytes(high, "little") & int.from_bytes(low, "little"):
            raise layout.refusal(f"tensor {tensor.name} must not contain NaN or infinity")


def _check_alpha(file: IO[bytes], tensor: layout.Tensor) -> None:
    file.seek(tensor.offset_bytes)
    raw = file.read(tensor.size_bytes)
    if tensor.dtype == "F16":
        (alpha,) = struct.unpack("<e", raw)
    else:  # a BF16 number is the upper half of an F32
        (alpha,) = struct.unpack("<f", raw.rjust(4, b"\0"))
    if not alpha > 0:
        raise layout.refusal(f"tensor {tensor.name} must be above 0")
