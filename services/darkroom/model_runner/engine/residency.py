"""Which models are on the device.

In: the name of a model that a generation needs. Out: its `Family`, loaded if it was not there, after its weights were
found to be those of its catalogue entry. Models that no generation uses leave, the longest unused first, when another
needs their room. Next: `step_loop` asks before it admits, and books the time that loading took.
"""

import collections
import gc
from collections.abc import Mapping, Sequence, Set

import torch

from darkroom.model_runner.engine import embeddings, errors, revision
from darkroom.model_runner.engine.families import Family, Load
from darkroom.model_runner.engine.job import EngineConfig, ModelSpec


class Residency:
    """The models of one accelerator; belongs to the engine's thread."""

    def __init__(self, config: EngineConfig, specs: Sequence[ModelSpec], families: Mapping[str, Load]) -> None:
        self._config = config
        self._specs = {spec.name: spec for spec in specs}
        self._families = families
        self._embeddings = embeddings.Cache(bytes_max=config.embeddings_bytes_max)
        self._resident: collections.OrderedDict[str, Family] = collections.OrderedDict()

    @property
    def models(self) -> tuple[str, ...]:
        """Names of what is resident, longest unused first."""
        return tuple(self._resident)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Digests of the LoRAs resident for any of them."""
        return tuple(digest for family in self._resident.values() for digest in family.bank.digests)

    def has(self, name: str) -> bool:
        """Whether the model is resident."""
        return name in self._resident

    def must_wait(self, name: str, *, in_use: Set[str]) -> bool:
        """Whether the model has to wait until models in use are free; one that never fits need not: `get` refuses."""
        if name in self._resident or name not in self._specs:
            return False
        kept = sum(self._specs[other].memory_bytes for other in self._resident if other in in_use)
        return kept > 0 and kept + self._specs[name].memory_bytes > self._config.memory_bytes_max

    def get(self, name: str, *, in_use: Set[str]) -> Family:
        """Return the model, loaded if need be; LoadFailed says why it cannot be."""
        if name not in self._resident:
            spec = self._specs.get(name)
            if spec is None or spec.family not in self._families:
                raise errors.LoadFailed(f"this runner does not serve the model {name!r}")
            self._make_room(spec, in_use)
            self._resident[name] = self._load(spec)
        self._resident.move_to_end(name)
        return self._resident[name]

    def _make_room(self, spec: ModelSpec, in_use: Set[str]) -> None:
        if spec.memory_bytes > self._config.memory_bytes_max:
            raise errors.LoadFailed(f"model {spec.name} needs {spec.memory_bytes} bytes, more than this runner has")
        for other in [name for name in self._resident if name not in in_use]:
            if self._resident_bytes() + spec.memory_bytes <= self._config.memory_bytes_max:
                break
            del self._resident[other]
        gc.collect()  # modules that know their parents would otherwise keep their memory until some later collection
        if torch.device(self._config.device).type == "cuda":
            torch.cuda.empty_cache()

    def _resident_bytes(self) -> int:
        return sum(self._specs[name].memory_bytes for name in self._resident)

    def _load(self, spec: ModelSpec) -> Family:
        if revision.digest(spec.path) != spec.revision:
            raise errors.LoadFailed(f"model {spec.name}: its weight files are not those of its catalogue entry")
        try:
            return self._families[spec.family](
                spec,
                device=torch.device(self._config.device),
                dtype=getattr(torch, self._config.dtype),
                adapters_resident_max=self._config.adapters_resident_max,
                embeddings=self._embeddings.of(spec.revision),
            )
        except Exception as error:
            known = errors.translate(error)
            if type(known) is not errors.EngineError:
                raise known from error
            raise errors.LoadFailed(f"model {spec.name} could not be loaded ({type(error).__name__})") from error
