"""What a runner does its work with, out of what is there: which device, which type of number, which models.

Settings and facts (how many CUDA devices, which catalogue) come in; choices go out, or a SettingsError that names the variable.
Next: `server` opens what was chosen.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, cast, get_args

from darkroom import catalog, settings
from darkroom.model_runner.config import Config

Dtype: TypeAlias = Literal["float32", "float16", "bfloat16"]


class Device(NamedTuple):
    """Where the engine computes (a torch device), and what the sampler watches."""

    computing: str
    sampled: str


def device(stated: str, *, cuda_devices: int, visible: str = "") -> Device:
    """The device for DARKROOM_DEVICE, whose index is NVML's; it computes on the CPU where torch has no CUDA, as in tests.

    `visible` is CUDA_VISIBLE_DEVICES: where it lists indices, torch counts in that list, and NVML does not.
    """
    listed = [int(index) for index in visible.split(",")] if re.fullmatch(r"\d{1,3}(,\d{1,3})*", visible) else []
    shown = (listed or list(range(cuda_devices)))[:cuda_devices]
    if stated == "auto":
        stated = f"cuda:{shown[0]}" if shown else "cpu"
    if stated == "cpu":
        return Device("cpu", "cpu")
    named = re.fullmatch(r"(cuda|nvml):(\d{1,3})", stated)
    if named is None:
        raise settings.SettingsError("DARKROOM_DEVICE must be auto, cpu, cuda:<index> or nvml:<index>")
    kind, index = named[1], int(named[2])
    if index not in shown and (kind == "cuda" or shown):
        raise settings.SettingsError(f"DARKROOM_DEVICE is {stated}, but torch sees {shown or 'none'} of NVML's devices")
    return Device(f"cuda:{shown.index(index)}" if index in shown else "cpu", f"nvml:{index}")


def dtype(stated: str, computing: str) -> Dtype:
    """The type of the weights for DARKROOM_DTYPE."""
    if not stated:
        return "float32" if computing == "cpu" else "bfloat16"
    for known in get_args(Dtype):
        if stated == known:
            return cast(Dtype, known)
    raise settings.SettingsError(f"DARKROOM_DTYPE must be one of {', '.join(get_args(Dtype))}")


def memory_bytes_max(stated: int, *, device_bytes: int) -> int:
    """Memory for resident models; four fifths of the device's if not stated, since activations need the rest."""
    if not stated and not device_bytes:
        raise settings.SettingsError("DARKROOM_MEMORY_BYTES_MAX must be set: the device does not tell its memory")
    return stated or device_bytes * 4 // 5


def host_cache_bytes_max(stated: int, computing: str) -> int:
    """Host memory for models that have left the device; none for the CPU, whose models are in host memory as it is."""
    return 0 if computing == "cpu" else stated


def models(config: Config, *, families: Collection[str]) -> dict[str, catalog.ModelEntry]:
    """The catalogue's entries that this runner may load, by name."""
    folder = Path(config.catalog_dir) if config.catalog_dir else Path(__file__).parents[1] / "models"
    known = catalog.load(folder)
    here = {name: entry for name, entry in known.items() if entry.family in families and entry.directory.is_dir()}
    chosen = {name: entry for name, entry in here.items() if name in config.models or not config.models}
    _check("DARKROOM_MODELS", config.models, chosen)
    _check("DARKROOM_PRELOAD", config.preload, chosen)
    if not chosen:
        raise settings.SettingsError(f"DARKROOM_CATALOG_DIR holds no model whose files are here: {folder}")
    return chosen


def _check(variable: str, names: Collection[str], entries: Mapping[str, catalog.ModelEntry]) -> None:
    if missing := [name for name in names if name not in entries]:
        raise settings.SettingsError(f"{variable} names what this runner cannot load: {', '.join(missing)}")
