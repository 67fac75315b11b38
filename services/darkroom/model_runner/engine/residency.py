"""Which models are on the device.

In: the name of a model that a generation needs. Out: its `Family`, loaded if it was not there, after its weights were
found to be those of its catalogue entry (another thread reads them for that, so that the device goes on and the files are
in memory when they are loaded). When another model needs the room, those leave first that nobody uses and whose return
costs least: the time that it would take, divided by the time since they were used. What leaves is kept in host memory
where there is room for it (`host_cache`), and returns from there. Next: `admission` loads.
"""

import gc
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import torch

from darkroom.model_runner.engine import embeddings, errors, host_cache, revision
from darkroom.model_runner.engine.families import Family, Load
from darkroom.model_runner.engine.job import EngineConfig, ModelSpec

STAY_LOADS = 4
"""A model that is in use stays for so many times the time that it took to make room for it and to load it: so that takes a
fifth of the time at worst."""


@dataclass
class _Resident:
    family: Family
    stays_until_us: int
    """While it is in use."""
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
        self._host = host_cache.HostCache(
            device=torch.device(config.device), bytes_max=config.host_cache_bytes_max, now_us=now_us
        )
        self._return_us_per_byte: float | None = None  # when last a model returned from host memory
        self._read_us: dict[str, int] = {}  # how long each model took when it was last loaded from its files

    @property
    def models(self) -> tuple[str, ...]:
        """Names of what is resident, longest unused first."""
        return tuple(sorted(self._resident, key=lambda name: self._resident[name].used_us))

    @property
    def merged_bytes(self) -> int:
        """Memory that weights with merged LoRAs take, beside the models' own."""
        return sum(resident.family.bank.merged_bytes for resident in self._resident.values())

    @property
    def host_cache_bytes(self) -> int:
        """Host memory that models take which have left the device."""
        return self._host.size_bytes

    def has(self, name: str) -> bool:
        """Whether the model is resident."""
        return name in self._resident

    def spec(self, name: str) -> ModelSpec:
        """Return what the catalogue says of a model that this runner serves."""
        return self._specs[name]

    def can_load(self, name: str, *, in_use: Set[str], rooted: Set[str] = frozenset()) -> bool:
        """Whether `load` may be called now: its weights are at hand, and models that must stay leave room for it.

        `rooted` are those whose rows hold on to them, so that they cannot leave. True as well for a model that can never be
        loaded: `load` says why.
        """
        spec = self._specs.get(name)
        if spec is None or spec.family not in self._families or spec.memory_bytes > self._config.memory_bytes_max:
            return True
        staying = sum(
            self._specs[other].memory_bytes for other in self._resident if self._must_stay(other, in_use, rooted)
        )
        return self._is_at_hand(spec) and staying + spec.memory_bytes <= self._config.memory_bytes_max

    def load(self, name: str, *, in_use: Set[str], rooted: Set[str] = frozenset()) -> None:
        """Make the model resident; LoadFailed says why it cannot be."""
        spec = self._specs.get(name)
        if spec is None or spec.family not in self._families:
            raise errors.LoadFailed(f"this runner does not serve the model {name!r}")
        if spec.memory_bytes > self._config.memory_bytes_max:
            raise errors.LoadFailed(f"model {name} needs {spec.memory_bytes} bytes, more than this runner has")
        was_kept = name in self._host
        if not was_kept:
            self._check_digest(spec)
        in_use = in_use | {name}
        begun_us = self._now_us()
        self._make_room(spec, in_use, rooted)
        started_us = self._now_us()
        family = self._load_if_it_fits(spec)
        if family is None:
            self.evict_idle(in_use=in_use)
            family = self._load(spec)
        now_us = self._now_us()
        if was_kept:
            self._return_us_per_byte = (now_us - started_us) / spec.memory_bytes
        else:
            self._read_us[name] = now_us - started_us
        self._resident[name] = _Resident(family, now_us + STAY_LOADS * (now_us - begun_us), now_us)

    def use(self, name: str) -> Family:
        """Return a model that is resident."""
        resident = self._resident[name]
        resident.used_us = self._now_us()
        return resident.family

    def evict_idle(self, *, in_use: Set[str]) -> None:
        """Let go of every model that nobody uses, of merged LoRAs, and of what the device's allocator keeps."""
        self._evict([name for name in self._resident if name not in in_use], in_use)
        for resident in self._resident.values():
            resident.family.bank.release()
        gc.collect()  # of modules that know their parents, what a load that failed has left
        if torch.device(self._config.device).type == "cuda":
            torch.cuda.empty_cache()

    def _must_stay(self, name: str, in_use: Set[str], rooted: Set[str]) -> bool:
        return name in rooted or (name in in_use and self._now_us() < self._resident[name].stays_until_us)

    def _is_at_hand(self, spec: ModelSpec) -> bool:
        """Whether its weights are in host memory, or its files are read, which begins when this is first asked."""
        if spec.name in self._host:
            return True
        if spec.name not in self._digests:
            if not all(digest.done() for digest in self._digests.values()):
                return False  # one at a time, so that the other threads make files and read pictures meanwhile
            self._digests[spec.name] = self._pool.submit(revision.digest, spec.path)
            self._digests[spec.name].add_done_callback(lambda _: self._wake())
        return self._digests[spec.name].done()

    def _check_digest(self, spec: ModelSpec) -> None:
        try:
            digest = self._digests.pop(spec.name).result()
        except OSError as error:
            raise errors.LoadFailed(f"model {spec.name}: its weight files cannot be read") from error
        if digest != spec.revision:
            raise errors.LoadFailed(
                f"model {spec.name}: its weight files are not those of its catalogue entry, their revision is {digest}"
            )

    def _make_room(self, spec: ModelSpec, in_use: Set[str], rooted: Set[str]) -> None:
        """Evict until the model fits: idle ones first, among them the one that costs least to have again."""

        def regret(name: str) -> tuple[bool, bool, float]:
            unused_us = max(self._now_us() - self._resident[name].used_us, 1)
            return self._must_stay(name, in_use, rooted), name in in_use, self._return_us(name) / unused_us

        free_bytes = self._config.memory_bytes_max - sum(self._specs[name].memory_bytes for name in self._resident)
        leaving = []
        for name in sorted(self._resident, key=regret):
            if free_bytes >= spec.memory_bytes:
                break
            leaving.append(name)
            free_bytes += self._specs[name].memory_bytes
        self._evict(leaving, in_use)

    def _return_us(self, name: str) -> float:
        """Return what it would take to have a model again: from its files, unless it would be kept in host memory."""
        size_bytes = self._specs[name].memory_bytes
        if self._return_us_per_byte is None or size_bytes > self._config.host_cache_bytes_max:
            return self._read_us[name]
        return self._return_us_per_byte * size_bytes

    def _evict(self, names: Sequence[str], in_use: Set[str]) -> None:
        for name in names:
            leaving = self._resident.pop(name)
            self._host.keep(name, leaving.family, read_us=self._read_us[name], used_us=leaving.used_us, in_use=in_use)
            del leaving  # so that what was not kept is gone before the collection
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
            if spec.name in self._host:
                return self._host.bring_back(spec.name)
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
