"""What the text encoders said of texts that were seen before.

In: texts, each with the tenant that sent it, and a way to encode those that are missing. Out: their embeddings in the
same order, on the device, the missing ones encoded in one batch. Tenants never share an entry: how fast an answer
comes must not tell one of them what another has asked for. Next: families lay the embeddings into their states.
"""

import collections
import copy
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

Embedding = Mapping[str, Tensor]
"""By the family's own names, without a batch dimension."""


class _Key(NamedTuple):
    tenant_id: str
    revision: str
    tokens: int
    text: str


class _Entries:
    """Least recently used first, together at most `bytes_max`."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.size_bytes = self.hits = self.misses = 0
        self._by_key: collections.OrderedDict[_Key, Embedding] = collections.OrderedDict()

    def find(self, key: _Key) -> Embedding | None:
        found = self._by_key.get(key)
        if found is not None:
            self._by_key.move_to_end(key)
        return found

    def keep(self, key: _Key, embedding: Embedding) -> None:
        self._by_key[key] = embedding
        self.size_bytes += _size_bytes(embedding)
        while self.size_bytes > self.bytes_max:
            self.size_bytes -= _size_bytes(self._by_key.popitem(last=False)[1])


class Cache:
    """The embeddings of one accelerator; belongs to the engine's thread."""

    def __init__(self, *, bytes_max: int) -> None:
        """Hold at most `bytes_max` of tensors; 0 remembers nothing."""
        self._entries = _Entries(bytes_max)
        self._revision = ""

    def of(self, revision: str) -> "Cache":
        """Return this cache as a model of that revision uses it: the same room, none of the other models' entries."""
        view = copy.copy(self)
        view._revision = revision
        return view

    @property
    def hits(self) -> int:
        """Texts that were here already when they were asked for."""
        return self._entries.hits

    @property
    def misses(self) -> int:
        """Texts that were not."""
        return self._entries.misses

    @property
    def size_bytes(self) -> int:
        """What is held now."""
        return self._entries.size_bytes

    def embed(
        self,
        tenant_ids: Sequence[str],
        texts: Sequence[str],
        *,
        compute: Callable[[list[str]], Sequence[Embedding]],
        tokens: int,
    ) -> list[Embedding]:
        """Return an embedding for each text; `compute` is called at most once, with the missing texts, each once.

        `tenant_ids` are those of the texts, `tokens` the most that the encoders are told to make of each. The tensors are shared
        with later answers and must not be changed in place.
        """
        keys = [_Key(tenant, self._revision, tokens, text) for tenant, text in zip(tenant_ids, texts, strict=True)]
        found = {key: known for key in keys if (known := self._entries.find(key)) is not None}
        hits = sum(key in found for key in keys)
        self._entries.hits += hits
        self._entries.misses += len(keys) - hits
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        for key, embedding in zip(missing, self._computed(missing, compute), strict=True):
            found[key] = embedding
            self._entries.keep(key, embedding)
        return [found[key] for key in keys]

    def _computed(
        self, missing: Sequence[_Key], compute: Callable[[list[str]], Sequence[Embedding]]
    ) -> list[Embedding]:
        texts = list(dict.fromkeys(key.text for key in missing))
        computed = dict(zip(texts, compute(texts) if texts else [], strict=True))
        return [{name: _alone(tensor) for name, tensor in computed[key.text].items()} for key in missing]


def _alone(tensor: Tensor) -> Tensor:
    """Return the tensor in memory of its own: a row of a batch would keep the whole batch alive."""
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor


def _size_bytes(embedding: Embedding) -> int:
    return sum(tensor.nbytes for tensor in embedding.values())
