"""The LoRAs resident for one model, and how a batch gets its own.

In: for each row of a batch, the adapters that it uses. Out: a context in which a forward of the denoiser gives each row its
own, so that one batch may mix adapters, several for one row, and rows with none. Next: `families` call the denoiser inside
`applied`.
"""

import collections
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor, nn

from darkroom.model_runner.engine.adapters import low_rank, merged, pairs
from darkroom.model_runner.engine.job import AdapterUse

_Set = tuple[tuple[str, float], ...]
"""Digests with their strengths, in order: two rows with equal sets get the same change."""


class Bank:
    """The LoRAs resident for one model; the longest unused leaves when there are too many."""

    def __init__(self, denoiser: nn.Module, *, resident_max: int, prefix: str = "transformer") -> None:
        """Take the layers of `denoiser`; the pairs will lie on its device, in its dtype. Files name it `prefix`."""
        self._layers = pairs.layers(denoiser)
        self._prefix = prefix
        self._resident: collections.OrderedDict[str, pairs.Adapter] = collections.OrderedDict()
        self._resident_max = resident_max
        self._joined: Mapping[_Set, pairs.Adapter] = {}
        self._merged: tuple[_Set, merged.Merged] | None = None

    @property
    def resident(self) -> Mapping[str, pairs.Adapter]:
        """The pairs of each adapter that is resident, by digest, longest unused first."""
        return self._resident

    @property
    def merged_bytes(self) -> int:
        """Memory that merged weights take, beside the model's own."""
        return 0 if self._merged is None else self._merged[1].size_bytes

    def release(self) -> None:
        """Drop what was made of the LoRAs for a batch, for memory's sake; it is made again when a batch needs it."""
        self._merged = None
        self._joined = {}

    def get(self, use: AdapterUse) -> pairs.Adapter:
        """Return the adapter, read from its file if it is not resident; BadAdapter names the key that does not fit."""
        if use.digest not in self._resident:
            self._resident[use.digest] = pairs.read(use, self._layers, prefix=self._prefix)
            if len(self._resident) > self._resident_max:
                self._resident.popitem(last=False)
        self._resident.move_to_end(use.digest)
        return self._resident[use.digest]

    @contextlib.contextmanager
    def applied(self, rows: Sequence[Sequence[AdapterUse]]) -> Iterator[None]:
        """Within, a forward of the denoiser over `len(rows)` rows gives each row its own adapters."""
        sets = [_set(row) for row in rows]
        self._joined = {one: self._join(one, row) for one, row in dict(zip(sets, rows, strict=True)).items()}
        with contextlib.ExitStack() as hooks:
            if len(self._joined) == 1:
                self._apply_to_all(sets[0], hooks)
            else:
                self._apply_row_by_row(sets, hooks)
            yield

    def _join(self, one: _Set, row: Sequence[AdapterUse]) -> pairs.Adapter:
        """Return a set's adapters as one; those of the batch before are kept, though there were more than stay resident."""
        if one in self._joined:
            for digest, _ in one:
                if digest in self._resident:
                    self._resident.move_to_end(digest)
            return self._joined[one]
        adapters = {use.digest: self.get(use) for use in row}
        parts: dict[str, list[tuple[low_rank.Pair, float]]] = collections.defaultdict(list)
        for digest, scale in one:
            for module, pair in adapters[digest].items():
                parts[module].append((pair, scale))
        return {module: low_rank.joined(some) for module, some in parts.items()}

    def _apply_row_by_row(self, sets: Sequence[_Set], hooks: contextlib.ExitStack) -> None:
        places = low_rank.Places()
        for module in {module for adapter in self._joined.values() for module in adapter}:
            layer = self._layers[module]
            own = [self._joined[one].get(module) for one in sets]
            hooks.callback(layer.register_forward_hook(_adder(layer, own, places)).remove)

    def _apply_to_all(self, one: _Set, hooks: contextlib.ExitStack) -> None:
        adapter = self._joined[one]
        if not adapter:
            return
        if self._merged is None or self._merged[0] != one:
            self._merged = None  # its memory is free again before the next looks how much there is
            self._merged = (one, merged.Merged(next(iter(adapter.values())).up.device))
        for module, pair in adapter.items():
            layer = self._layers[module]
            swap = _Swap(module, layer, pair, self._merged[1])
            hooks.callback(swap.restore)
            hooks.callback(layer.register_forward_pre_hook(swap.before).remove)
            hooks.callback(layer.register_forward_hook(swap.after).remove)


class _Swap:
    """Gives a layer its merged weight for one call, or adds the change to its output."""

    def __init__(self, name: str, layer: low_rank.Layer, pair: low_rank.Pair, source: merged.Merged) -> None:
        self._name, self._layer, self._pair, self._source = name, layer, pair, source
        self._pristine = layer._parameters["weight"]

    def before(self, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        weight = self._source.weight(self._name, self._layer, self._pair, inputs[0])
        if weight is not None:
            self._layer._parameters["weight"] = weight

    def after(self, _layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if self._layer.weight is not self._pristine:
            self.restore()
        else:
            output.add_(low_rank.shared(self._layer, inputs[0], self._pair))

    def restore(self) -> None:
        self._layer._parameters["weight"] = self._pristine


def _set(row: Sequence[AdapterUse]) -> _Set:
    scales: dict[str, float] = collections.defaultdict(float)
    for use in row:
        scales[use.digest] += use.scale
    return tuple(sorted(scales.items()))


def _adder(
    layer: low_rank.Layer, own: Sequence[low_rank.Pair | None], places: low_rank.Places
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def add(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        low_rank.add(layer, inputs[0], output, own, places)

    return add
