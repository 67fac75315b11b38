"""Runs a kernel's own source on the CPU, so that its indexing and its arithmetic are proven where there is no GPU.

In: a `.cu` file with a pointwise kernel (no shared memory, no synchronisation) and its macros. Out: a function that calls
the kernel for every thread of a grid. Next: the kernel's test holds the result against the reference. It is compiled as C++
by the `ziglang` wheel with `include/cpu` in place of CUDA's headers; it is a proof, not an implementation to serve with.
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

_HEADERS_PATH = Path(__file__).with_name("include") / "cpu"


def compile(source_path: Path, *, kernel: str, defines: Mapping[str, str], directory: Path) -> Callable[..., None]:
    """Build into `directory` and return `run(*arguments, grid, block)`; arguments are CPU tensors, None or integers."""
    wrapper, library = directory / f"{kernel}.cc", directory / f"{kernel}.so"
    wrapper.write_text(
        f'#include "{source_path}"\n'
        f'extern "C" void emulate(unsigned grid, unsigned block, const long long* arguments)\n'
        f"{{ launch_on_cpu({kernel}, grid, block, arguments); }}\n"
    )
    macros = [f"-D{name}={value}" for name, value in defines.items()]
    flags = ["-std=c++17", "-nostdlib++", "-shared", "-fPIC", "-O1", "-ffp-contract=off", f"-I{_HEADERS_PATH}"]
    command = [sys.executable, "-m", "ziglang", "c++", *flags, *macros, "-o", str(library), str(wrapper)]
    caches = {"ZIG_GLOBAL_CACHE_DIR": str(directory / "zig"), "ZIG_LOCAL_CACHE_DIR": str(directory / "zig")}
    subprocess.run(command, check=True, env={**caches, **os.environ}, timeout=300)
    emulated = ctypes.CDLL(str(library)).emulate

    def run(*arguments: Tensor | int | None, grid: int, block: int) -> None:
        words = [argument.data_ptr() if isinstance(argument, Tensor) else argument or 0 for argument in arguments]
        emulated(ctypes.c_uint(grid), ctypes.c_uint(block), (ctypes.c_longlong * len(words))(*words))

    return run
