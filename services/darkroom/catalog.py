"""The catalogue: which models there are, their limits, defaults and prices.

A directory of YAML files, one per model, comes in; frozen entries by name go out. The scheduler serves and checks
requests by them, the runner loads by them, billing_meter starts from their prices. Reading is strict: an unknown,
missing or mistyped key is fatal, and the error names the file and the key.
"""

import dataclasses
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import jsonschema
import yaml

from darkroom import pricing

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
REVISION = re.compile(r"sha256:[0-9a-f]{64}")

_T = TypeVar("_T")


class CatalogError(ValueError):
    """A catalogue file is wrong; the message names the file and the key."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """Inclusive bounds of a number of a request, counted from `min` in steps of `multiple_of`."""

    min: float
    max: float
    multiple_of: int = 1

    def __post_init__(self) -> None:
        if not self.min <= self.max or self.multiple_of < 1:
            raise ValueError("min must not be above max, nor multiple_of below 1")


@dataclass(frozen=True, kw_only=True)
class IntRange(Range):
    """Inclusive bounds of an integer."""

    min: int
    max: int


_NOTHING = IntRange(min=0, max=0)


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a request gets that does not say."""

    width: int = 0
    height: int = 0
    steps: int
    guidance_scale: float
    num_images: int = 1
    num_frames: int = 0
    frames_per_second: int = 0
    duration_us: int = 0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may ask for, those of `NUMBERS` that its kind has; `pixels_max` is of one image, or of a video's frames."""

    width: IntRange = _NOTHING
    height: IntRange = _NOTHING
    steps: IntRange
    guidance_scale: Range
    num_images: IntRange = _NOTHING
    num_frames: IntRange = _NOTHING
    frames_per_second: IntRange = _NOTHING
    duration_us: IntRange = _NOTHING
    prompt_bytes_max: int
    adapters_max: int
    pixels_max: int = 0


Kind = Literal["image", "video", "audio"]
Taken = Literal["none", "optional", "required"]
Quality = Literal["LOSSLESS", "HIGH", "DRAFT"]

NUMBERS: Mapping[Kind, tuple[str, ...]] = {
    "image": ("width", "height", "steps", "num_images"),
    "video": ("width", "height", "num_frames", "frames_per_second", "steps"),
    "audio": ("duration_us", "steps"),
}
"""The whole numbers that a request for media of each kind may give, by their names in it."""


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One model of the catalogue; `directory` holds its weights in the diffusers layout."""

    name: str
    kind: Kind
    family: str
    description: str
    path: str
    revision: str  # "sha256:<hex>", the digest of the weight files, checked when they are loaded
    license: str
    guidance: Literal["true_cfg", "embedded", "none"]
    max_sequence_length: int
    memory_bytes: int  # resident need
    defaults: Defaults
    limits: Limits
    price: pricing.Rates
    step_cost_us_guess: int  # for one row, before any measurement
    load_s_guess: float
    extras_schema: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # JSON Schema; empty accepts no extras
    source_image: Taken = "none"  # the picture that a generation starts from
    mask_image: Taken = "none"  # where that is painted anew
    charge_cancelled: Literal["none", "used_steps"] = "none"
    samplers: tuple[str, ...] = ()  # those that a request may name, the model's own first; none: it may name none
    qualities: tuple[Quality, ...] = ("LOSSLESS",)  # the tiers that a request may ask for
    directory: Path = dataclasses.field(default=Path(), metadata={"derived": True})

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError("name must match ^[a-z0-9][a-z0-9._-]{0,63}$")
        if not REVISION.fullmatch(self.revision):
            raise ValueError("revision must be sha256: and 64 hex digits")


def load(directory: Path) -> dict[str, ModelEntry]:
    """Read every `*.yaml` of a directory; the entries by name, in the order of names. CatalogError on the first fault."""
    return {path.stem: _load_file(path) for path in sorted(directory.glob("*.yaml"))}


def _load_file(path: Path) -> ModelEntry:
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
        entry = _read(ModelEntry, loaded, "")
        if entry.name != path.stem:
            raise ValueError("name must be the file's name without .yaml")
        jsonschema.Draft202012Validator.check_schema(entry.extras_schema)
        _check_defaults(entry)
    except (ValueError, yaml.YAMLError, jsonschema.SchemaError) as error:
        raise CatalogError(f"{path.name}: {error}") from error
    return dataclasses.replace(entry, directory=path.parent / entry.path)


def _check_defaults(entry: ModelEntry) -> None:
    for name in {name for names in NUMBERS.values() for name in names}.difference(NUMBERS[entry.kind]):
        if getattr(entry.limits, name) is not _NOTHING:
            raise ValueError(f"limits.{name} is of no use to {entry.kind}")
    for name in (*NUMBERS[entry.kind], "guidance_scale"):
        value = getattr(entry.defaults, name)
        limit: Range = getattr(entry.limits, name)
        if limit is _NOTHING:
            raise ValueError(f"limits.{name} is missing")
        if not limit.min <= value <= limit.max or (limit.multiple_of > 1 and (value - limit.min) % limit.multiple_of):
            raise ValueError(f"defaults.{name} is outside of limits.{name}")
    pixels = entry.defaults.width * entry.defaults.height * max(1, entry.defaults.num_frames)
    if entry.kind != "audio" and pixels > entry.limits.pixels_max:
        raise ValueError("the defaults' pixels, of all frames together, are above limits.pixels_max")


def _read(kind: type[_T], value: object, where: str) -> _T:
    """Build a frozen dataclass from a mapping, each key checked against its annotation."""
    if not isinstance(value, dict):
        raise ValueError(f"{where or 'the file'} must be a mapping")
    hints = typing.get_type_hints(kind)
    declared = dataclasses.fields(kind)  # type: ignore[arg-type]  # always a dataclass
    fields = {field.name: field for field in declared if "derived" not in field.metadata}
    for key in value:
        if key not in fields:
            raise ValueError(f"{_join(where, key)} is not a key of the catalogue")
    read = {}
    for name, field in fields.items():
        if name in value:
            read[name] = _read_value(hints[name], value[name], _join(where, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{_join(where, name)} is missing")
    try:
        return kind(**read)
    except ValueError as error:
        raise ValueError(f"{where}: {error}" if where else str(error)) from error


def _read_value(kind: Any, value: object, where: str) -> object:
    if dataclasses.is_dataclass(kind):
        return _read(typing.cast(type[Any], kind), value, where)
    origin = typing.get_origin(kind)
    if origin is Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            raise ValueError(f"{where} must be one of {', '.join(choices)}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where} must be a list")
        return tuple(_read_value(typing.get_args(kind)[0], one, f"{where}[{i}]") for i, one in enumerate(value))
    if origin is not None:  # Mapping[str, Any]
        if not isinstance(value, dict):
            raise ValueError(f"{where} must be a mapping")
        return value
    good = isinstance(value, int | float) if kind is float else isinstance(value, kind)
    if not good or isinstance(value, bool):
        raise ValueError(f"{where} must be {'a number' if kind is float else f'of type {kind.__name__}'}")
    if isinstance(value, int | float) and not 0 <= value < 2**63:
        raise ValueError(f"{where} must be 0 or more")
    return float(value) if kind is float else value  # type: ignore[arg-type]  # a number by now


def _join(where: str, name: object) -> str:
    return f"{where}.{name}" if where else str(name)
