"""Generations as files: what is needed to go on with one in another process that serves the same model revision.

In: for each image its `State`, or its file if that is finished, and the usage and stages so far. Out: the bytes of a plain
safetensors file, with a JSON header in its metadata and a digest over the whole; and back again. Nouns are written field by
field, so that what a later release adds or takes away makes its files another schema. Next: `saving` hands the bytes out as an
event and takes them in with a job.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import torch as tensor_files
from torch import Tensor

from darkroom.model_runner.engine.job import JSON, AdapterUse, Job, ModelSpec, Output, Stage, Usage
from darkroom.model_runner.engine.plan import Plan
from darkroom.model_runner.engine.state import BatchKey, State

VERSION = 1

_NOUNS: dict[str, Any] = {noun.__name__: noun for noun in (State, BatchKey, Plan, Output, Usage, Stage)}
_NOT_THE_PICTURES = {"key", "priority", "deadline_us", "solo", "checkpoint"}
"""Fields of a job that may differ between the attempts of one generation."""

_UNSIGNED = b'"sha256":"' + b"0" * 64 + b'"'
_SIGNED = re.compile(rb'"sha256":"([0-9a-f]{64})"')


class Refused(Exception):
    """The file is damaged or of no use, or is not for this job, model revision or release; the text says which."""


class Saved(NamedTuple):
    """What a file holds."""

    images: tuple[State | Output, ...]
    """In the order of the job's seeds."""
    usage: Usage
    stages: tuple[Stage, ...]
    """Where the wall-clock time up to there went, of all attempts on the way."""


def save(
    images: Sequence[State | Output], usage: Usage, stages: Sequence[Stage] = (), *, job: Job, spec: ModelSpec
) -> bytes:
    """Return the file of a generation between two steps; `images` in the order of the job's seeds."""
    tensors = _Tensors()
    header = {
        **_identity(job, spec),
        "images": [_encode(image, tensors) for image in images],
        "usage": _encode(usage, tensors),
        "stages": _encode(tuple(stages), tensors),
    }
    metadata = {"darkroom": json.dumps(header), "sha256": "0" * 64}
    data: bytes = tensor_files.save(tensors.by_name, metadata)
    digest = hashlib.sha256(data).hexdigest().encode()
    return data.replace(_UNSIGNED, _UNSIGNED.replace(b"0" * 64, digest), 1)


def load(data: bytes, *, job: Job, spec: ModelSpec, device: torch.device) -> Saved:
    """Return what `save` was given, on `device`, with this job's paths of adapters; Refused if it cannot be gone on with."""
    header = _header(data)
    for name, ours in _identity(job, spec).items():
        if header.get(name) != ours:
            raise Refused(f"the checkpoint is of another {name}")
    tensors = {name: tensor.to(device) for name, tensor in tensor_files.load(data).items()}
    paths = {use.digest: use.path for use in job.adapters}
    images = tuple(_on_cpu(_decode(image, tensors, paths)) for image in header["images"])
    if not all(torch.isfinite(image.latents).all() for image in images if isinstance(image, State)):
        raise Refused("the checkpoint holds NaN or infinity")
    return Saved(images, *(_decode(header[name], tensors, paths) for name in ("usage", "stages")))


def _identity(job: Job, spec: ModelSpec) -> dict[str, str]:
    """What must be the same where the file is written and where it is read."""
    fields = {name: _names(noun) for name, noun in _NOUNS.items()}
    wanted = {name: getattr(job, name) for name in _names(job) if name not in _NOT_THE_PICTURES}
    return {
        "schema": f"{VERSION} {_digest(fields)}",
        "family": spec.family,
        "model": spec.name,
        "revision": spec.revision,
        "job": _digest(wanted),
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """A job's value that is not JSON, as what tells it from others."""
    if isinstance(value, AdapterUse):
        return [value.digest, value.scale]
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    return dict(value)


def _header(data: bytes) -> dict[str, Any]:
    """The JSON header of a file whose every byte is as it was written."""
    length = int.from_bytes(data[:8], "little")
    signed = _SIGNED.search(data, 8, 8 + min(length, len(data)))
    if signed is None:
        raise Refused("the checkpoint is damaged: it has no digest")
    view = memoryview(data)
    digest = hashlib.sha256(view[: signed.start()])
    digest.update(_UNSIGNED)
    digest.update(view[signed.end() :])
    if digest.hexdigest().encode() != signed[1]:
        raise Refused("the checkpoint is damaged: its digest does not fit")
    header: dict[str, Any] = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["darkroom"])
    return header


class _Tensors:
    """The file's tensors; what several images share is written once."""

    def __init__(self) -> None:
        self.by_name: dict[str, Tensor] = {}
        self._names: dict[int, str] = {}
        self._held: list[Tensor] = []  # so that no id is used again

    def add(self, tensor: Tensor) -> str:
        """The name under which it is written."""
        if id(tensor) not in self._names:
            self._names[id(tensor)] = name = str(len(self._names))
            self._held.append(tensor)
            self.by_name[name] = tensor.detach().to("cpu", copy=True).contiguous()
        return self._names[id(tensor)]


def _encode(value: Any, tensors: _Tensors) -> JSON:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return {"tensor": tensors.add(value)}
    if isinstance(value, np.ndarray):
        return {"array": tensors.add(torch.tensor(value))}
    if isinstance(value, bytes):
        return {"bytes": tensors.add(torch.tensor(bytearray(value), dtype=torch.uint8))}
    if isinstance(value, AdapterUse):
        return {"adapter": value.digest, "scale": value.scale}
    if type(value).__name__ in _NOUNS:
        return {
            "noun": type(value).__name__,
            "fields": {name: _encode(getattr(value, name), tensors) for name in _names(value)},
        }
    if isinstance(value, tuple):
        return {"tuple": [_encode(item, tensors) for item in value]}
    if isinstance(value, Mapping):
        return {"mapping": {name: _encode(item, tensors) for name, item in value.items()}}
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _decode(value: Any, tensors: Mapping[str, Tensor], paths: Mapping[str, Path]) -> Any:
    match value:
        case {"tensor": name}:
            return tensors[name]
        case {"array": name}:
            return tensors[name].cpu().numpy()
        case {"bytes": name}:
            return tensors[name].cpu().numpy().tobytes()
        case {"adapter": digest, "scale": scale}:
            return AdapterUse(path=paths[digest], digest=digest, scale=scale)
        case {"noun": noun, "fields": fields}:
            return _NOUNS[noun](**{name: _decode(item, tensors, paths) for name, item in fields.items()})
        case {"tuple": items}:
            return tuple(_decode(item, tensors, paths) for item in items)
        case {"mapping": items}:
            return {name: _decode(item, tensors, paths) for name, item in items.items()}
    return value


def _names(noun: Any) -> Sequence[str]:
    """The fields of a dataclass or of a NamedTuple."""
    if dataclasses.is_dataclass(noun):
        return [field.name for field in dataclasses.fields(noun)]
    return list(noun._fields)


def _on_cpu(image: State | Output) -> State | Output:
    """A state with its generator's state where generators are."""
    if isinstance(image, Output) or image.noise_rng is None:
        return image
    return dataclasses.replace(image, noise_rng=image.noise_rng.cpu())
