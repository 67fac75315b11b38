"""Simulated NVIDIA machines for tests: a compiled `libnvidia-ml.so.1` that the real nvidia-ml-py loads.

    library = nvml_stub.build()
    nvml_stub.write_state(state_path, gpus=[Gpu(), Gpu(utilization=90, processes=((4242, 10 * 2**30),))])
    subprocess.Popen([...], env={**os.environ, **nvml_stub.environment(library=library, state_path=state_path)})

The state file is read again at every NVML call, so writing it anew changes what a running process sees.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

STATE_VARIABLE = "DARKROOM_NVML_STUB_STATE"

_SOURCE_PATH = Path(__file__).with_name("nvml_stub.c")
_BUILD_PATH = Path(__file__).parents[2] / "build" / "nvml_stub"
_GPU_IS_LOST = 15


@dataclass(frozen=True)
class Gpu:
    """What NVML says of one simulated GPU."""

    name: str = "NVIDIA H200"
    uuid: str = ""
    """Empty: one made of its index."""
    utilization: int = 0
    memory_utilization: int = 0
    memory_total: int = 141 * 2**30
    memory_used: int = 2**30
    power: int = 75_000
    temperature: int = 40
    throttle_reasons: int = 1
    ecc_volatile: int = 0
    ecc_aggregate: int = 0
    processes: tuple[tuple[int, int], ...] = ()
    """(pid, bytes) of each."""
    xids: tuple[int, ...] = ()
    """All so far; those added after the runner registered reach it as events."""
    status: int = 0
    """An NVML error code that every call on this GPU answers."""
    unsupported: frozenset[str] = frozenset()
    """Fields, by the names above, to which NVML answers NOT_SUPPORTED."""


def lost(gpu: Gpu) -> Gpu:
    """Return the GPU after it fell off the bus."""
    return Gpu(name=gpu.name, uuid=gpu.uuid, status=_GPU_IS_LOST)


def build(directory: Path = _BUILD_PATH) -> Path:
    """Return the compiled library, building it with the ziglang wheel where this source has not been built before."""
    digest = hashlib.sha256(_SOURCE_PATH.read_bytes()).hexdigest()[:16]
    library = directory / digest / "libnvidia-ml.so.1"
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        built = Path(scratch) / library.name
        command = [
            sys.executable,
            "-m",
            "ziglang",
            "cc",
            "-shared",
            "-fPIC",
            "-O1",
            "-o",
            str(built),
            str(_SOURCE_PATH),
        ]
        caches = {"ZIG_GLOBAL_CACHE_DIR": scratch, "ZIG_LOCAL_CACHE_DIR": scratch}
        subprocess.run(command, check=True, env={**os.environ, **caches}, timeout=300)
        built.replace(library)  # whole or not at all, when several test processes build it at once
    return library


def write_state(path: Path, *, gpus: Sequence[Gpu], driver: str = "550.54.15") -> None:
    """Make the machine what is said here, at once: a reader sees the old state or the new one."""
    lines = [f"driver={driver}", f"count={len(gpus)}"]
    for index, gpu in enumerate(gpus):
        fields: dict[str, object] = {
            **vars(gpu),
            "uuid": gpu.uuid or f"GPU-00000000-0000-0000-0000-{index:012d}",
            "processes": ",".join(f"{pid}:{memory_bytes}" for pid, memory_bytes in gpu.processes),
            "xids": ",".join(str(xid) for xid in gpu.xids),
        }
        left_out = {"unsupported", *gpu.unsupported, *(() if gpu.status else ("status",))}
        lines += [f"{index}.{field}={value}" for field, value in fields.items() if field not in left_out]
    fresh = path.with_name(f"{path.name}.fresh")
    fresh.write_text("\n".join(lines) + "\n")
    fresh.replace(path)


def environment(*, library: Path, state_path: Path) -> dict[str, str]:
    """Return the variables with which a new process sees the simulated machine."""
    search = [str(library.parent), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return {"LD_LIBRARY_PATH": os.pathsep.join(search), STATE_VARIABLE: str(state_path)}
