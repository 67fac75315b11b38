"""Which models are on the device.

In: the name of a model that a generation needs. Out: its `Family`, loaded if it was not there, after its weights were
found to be those of its catalogue entry (another thread reads them for that, so that the device goes on and the files are
in memory when they are loaded). When another model needs the room, those leave first that nobody uses and whose return
costs least: the time that they took to load, divided by the time since they were used. Next: `admission` loads.
"""

import gc
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import torch

from darkroom.model_runner.engine import embeddings, errors, revision
from darkroom.model_runner.engine.families import Family, Load
from darkroom.model_runner.engine.job import EngineConfig, ModelSpec

STAY_LOADS = 4
"""A model that is in use stays for so many times its load time: so loading takes a fifth of the time at worst."""


@dataclass
class _Resident:
    family: Family
    load_us: int
    loaded_us: int
    used_us: int


class Residency:
    """The models of one accelerator; belongs to the engine's thread."""

    def __init__(
        self,
        config: EngineConfig,
        specs: Sequence[ModelSpec],
        families: Mapping[str, Load],
        *,
        pool: Executor,
        now_us: Callable[[], int],
        wake: Callable[[], None],
    ) -> None:
        self._config = config
        self._specs = {spec.name: spec for spec in specs}
        self._families = families
        self._pool = pool
        self._now_us = now_us
        self._wake = wake
        self.embeddings = embeddings.Cache(bytes_max=config.embeddings_bytes_max)
        """What the text encoders of all its models said."""
        self._digests: dict[str, Future[str]] = {}
        self._resident: dict[str, _Resident] = {}
        self.load_us: dict[str, int] = {}
        """How long each model took to load when it was last loaded."""

    @property
    def models(self) -> tuple[str, ...]:
        """Names of what is resident, longest unused first."""
        return tuple(sorted(self._resident, key=lambda name: self._resident[name].used_us))

    @property
    def adapters(self) -> tuple[str, ...]:
        """Digests of the LoRAs resident for any of them."""
        return tuple(digest for resident in self._resident.values() for digest in resident.family.bank.digests)

    def has(self, name: str) -> bool:
        """Whether the model is resident."""
        return name in self._resident

    def spec(self, name: str) -> ModelSpec:
        """Return what the catalogue says of a model that this runner serves."""
        return self._specs[name]

    def can_load(self, name: str, *, in_use: Set[str]) -> bool:
        """Whether `load` may be called now: its files are read, and models that must stay leave room for it.

        True as well for a model that can never be loaded: `load` says why.
        """
        spec = self._specs.get(name)
        if spec is None or spec.family not in self._families or spec.memory_bytes > self._config.memory_bytes_max:
            return True
        if name not in self._digests:
            self._digests[name] = self._pool.submit(revision.digest, spec.path)
            self._digests[name].add_done_callback(lambda _: self._wake())
        staying = sum(self._specs[other].memory_bytes for other in self._resident if self._must_stay(other, in_use))
        return self._digests[name].done() and staying + spec.memory_bytes <= self._config.memory_bytes_max

    def load(self, name: str, *, in_use: Set[str]) -> None:
        """Make the model resident; LoadFailed says why it cannot be."""
        spec = self._specs.get(name)
        if spec is None or spec.family not in self._families:
            raise errors.LoadFailed(f"this runner does not serve the model {name!r}")
        if spec.memory_bytes > self._config.memory_bytes_max:
            raise errors.LoadFailed(f"model {name} needs {spec.memory_bytes} bytes, more than this runner has")
        try:
            digest = self._digests.pop(name).result()
        except OSError as error:
            raise errors.LoadFailed(f"model {name}: its weight files cannot be read") from error
        if digest != spec.revision:
            raise errors.LoadFailed(f"model {name}: its weight files are not those of its catalogue entry")
        self._make_room(spec, in_use)
        started_us = self._now_us()
        family = self._load_if_it_fits(spec)
        if family is None:
            self.evict_idle(in_use=in_use)
            family = self._load(spec)
        now_us = self._now_us()
        self.load_us[name] = now_us - started_us
        self._resident[name] = _Resident(family, now_us - started_us, now_us, now_us)

    def use(self, name: str) -> Family:
        """Return a model that is resident."""
        resident = self._resident[name]
        resident.used_us = self._now_us()
        return resident.family

    def evict_idle(self, *, in_use: Set[str]) -> None:
        """Let go of every model that nobody uses, of merged LoRAs, and of what the device's allocator keeps."""
        self._evict([name for name in self._resident if name not in in_use])
        for resident in self._resident.values():
            resident.family.bank.release()
        if torch.device(self._config.device).type == "cuda":
            torch.cuda.empty_cache()

    def _must_stay(self, name: str, in_use: Set[str]) -> bool:
        resident = self._resident[name]
        return name in in_use and self._now_us() - resident.loaded_us < STAY_LOADS * resident.load_us

    def _make_room(self, spec: ModelSpec, in_use: Set[str]) -> None:
        """Evict until the model fits: idle ones first, among them the one that costs least to have again."""

        def regret(name: str) -> tuple[bool, float]:
            resident = self._resident[name]
            return name in in_use, resident.load_us / max(self._now_us() - resident.used_us, 1)

        free_bytes = self._config.memory_bytes_max - sum(self._specs[name].memory_bytes for name in self._resident)
        leaving = []
        for name in sorted(self._resident, key=regret):
            if free_bytes >= spec.memory_bytes:
                break
            leaving.append(name)
            free_bytes += self._specs[name].memory_bytes
        self._evict(leaving)

    def _evict(self, names: Sequence[str]) -> None:
        for name in names:
            del self._resident[name]
        if names:
            gc.collect()  # modules that know their parents would otherwise keep their memory until some later collection
        if names and torch.device(self._config.device).type == "cuda":
            torch.cuda.empty_cache()

    def _load_if_it_fits(self, spec: ModelSpec) -> Family | None:
        """Return None where memory was short; the error's traceback, and what its frames loaded, is gone by then."""
        try:
            return self._load(spec)
        except errors.OutOfMemory:
            return None

    def _load(self, spec: ModelSpec) -> Family:
        try:
            return self._families[spec.family](
                spec,
                device=torch.device(self._config.device),
                dtype=getattr(torch, self._config.dtype),
                adapters_resident_max=self._config.adapters_resident_max,
                embeddings=self.embeddings.of(spec.revision),
            )
        except Exception as error:
            known = errors.translate(error)
            if type(known) is not errors.EngineError:
                raise known from error
            raise errors.LoadFailed(f"model {spec.name} could not be loaded ({type(error).__name__})") from error
