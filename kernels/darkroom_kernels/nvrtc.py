"""Compiles CUDA C++ to a cubin through `cuda.core`, on a machine with or without a GPU.

In: a `.cu` file, a target architecture and macro definitions. Out: the cubin, from a directory of earlier ones when the
source, the definitions, the headers, the architecture and the compiler are the same. Next: a kernel's `launch.py` loads it.

The cache is `DARKROOM_KERNEL_CACHE_DIR`, else `~/.cache/darkroom/kernels`, private to the user: whoever can write there
decides what runs on the GPU. Where it cannot be written, kernels are compiled in every process (some 40 ms each).
"""

import functools
import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cuda.core.utils import FileStreamProgramCache

_log = logging.getLogger(__name__)

_CACHE_BYTES_MAX = 256 * 2**20
_HEADERS = ("cuda_fp16.h", "cuda_fp16.hpp", "cuda_bf16.h", "cuda_bf16.hpp")


@functools.cache
def available() -> bool:
    """Whether the `[gpu]` extra is installed: `cuda.core` imports, and CUDA's headers are found."""
    try:
        from cuda import core, pathfinder
    except ImportError:
        return False
    return hasattr(core, "Program") and pathfinder.find_nvidia_header_directory("cudart") is not None


def compile(source_path: Path, *, arch: str, defines: Mapping[str, str | int]) -> bytes:
    """Return the cubin of a `.cu` file for `arch` ("sm_90"); raise `cuda.core`'s error with the compiler's log."""
    from cuda.core import Program, ProgramOptions
    from cuda.core.utils import make_program_cache_key

    source = source_path.read_text()
    options = ProgramOptions(
        name=source_path.name,
        arch=arch,
        std="c++17",
        include_path=[_include_path()],
        define_macro=[(name, str(value)) for name, value in sorted(defines.items())] or None,
    )
    key = make_program_cache_key(
        code=source, code_type="c++", options=options, target_type="cubin", extra_digest=_headers_digest()
    )
    cache = _cache()
    cubin = cache.get(key) if cache is not None else None
    if cubin is None:
        cubin = bytes(Program(source, "c++", options).compile("cubin").code)
        if cache is not None:
            cache[key] = cubin
    return cubin


def _include_path() -> str:
    from cuda import pathfinder

    path: str | None = pathfinder.find_nvidia_header_directory("cudart")
    if path is None:
        raise FileNotFoundError("CUDA's headers are missing: install darkroom[gpu] (nvidia-cuda-runtime-cu12)")
    return path


@functools.cache
def _headers_digest() -> bytes:
    root = Path(_include_path())
    return hashlib.sha256(b"".join((root / header).read_bytes() for header in _HEADERS)).digest()


@functools.cache
def _cache() -> "FileStreamProgramCache | None":
    from cuda.core.utils import FileStreamProgramCache

    try:
        directory = Path(os.environ.get("DARKROOM_KERNEL_CACHE_DIR") or Path.home() / ".cache/darkroom/kernels")
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return FileStreamProgramCache(directory, max_size_bytes=_CACHE_BYTES_MAX)
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        _log.warning("kernels are compiled in every process, because their cache cannot be used: %s", error)
        return None
