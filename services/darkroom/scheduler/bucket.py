"""The buckets under which costs are kept: "64x64", "832x480x81 draft guided", "window".

What a generation asks for comes in and the bucket's name goes out, as `asked` and the runners' heartbeats write it; or a name and
what was measured come in, and the nearest bucket of those goes out, or what a step costs by it, from which `estimate` and `predict` reckon.
"""

import functools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, TypeVar

WINDOW = "window"  # a sound is computed as one window of its model, whatever its length
GUIDED = "guided"

_NAME = re.compile(rf"(\d+(x\d+)*|{WINDOW})( (high|draft))?( {GUIDED})?")

Cost = TypeVar("Cost")


class Bucket(NamedTuple):
    """What a name says."""

    pixels: int  # of all frames; 0 for a sound
    tier: str  # empty for LOSSLESS
    guided: bool

    @property
    def work(self) -> int:
        """What a step takes, in proportion: by the pixels, and twice as much with guidance."""
        return max(1, self.pixels) * (2 if self.guided else 1)


def size(width: int, height: int, frames: int = 0) -> str:
    """Name a size: "64x64", "832x480x81"."""
    return f"{width}x{height}x{frames}" if frames else f"{width}x{height}"


def name(size: str, *, quality: str = "LOSSLESS", guided: bool) -> str:
    """Name the bucket of a size, a tier (perhaps in `size` already, as runners report it) and guidance.

    Guided work (classifier-free guidance above 1) computes each step twice, and a tier of its own has costs of its own.
    """
    return " ".join([size, *([] if quality == "LOSSLESS" else [quality.lower()]), *([GUIDED] if guided else [])])


def of(name: str) -> Bucket:
    """Read a name."""
    size, *words = name.split()
    pixels = 0 if size == WINDOW else math.prod(int(length) for length in size.split("x"))
    return Bucket(pixels, "".join(word for word in words if word != GUIDED), GUIDED in words)


def nearest(own: Bucket, known: Mapping[str, Cost]) -> tuple[Bucket, Cost] | None:
    """Return the bucket that is nearest in size, then in guidance, then in tier, with its cost; None if none is of any use.

    A tier that was not measured is taken for LOSSLESS, which costs the most that it can. Sounds and pictures tell nothing of
    each other; names that runners made up are passed over.
    """

    def distance(each: tuple[Bucket, Cost]) -> tuple[float, bool, bool]:
        farther = abs(math.log(max(1, own.pixels) / max(1, each[0].pixels)))
        return farther, own.guided != each[0].guided, own.tier != each[0].tier

    told = [(read, cost) for name, cost in known.items() if (read := _read(name))]
    usable = [each for each in told if each[0].tier in (own.tier, "") and bool(each[0].pixels) == bool(own.pixels)]
    return min(usable, key=distance, default=None)


class Nearest(Mapping[str, int]):
    """What a row's step costs by bucket; what was not measured is scaled, by its work, from the nearest bucket that was.

    It has (`in`, iteration) what was measured; a bucket of which nothing that was measured tells anything is a KeyError.
    """

    def __init__(self, measured: Mapping[str, int]) -> None:
        self._measured = measured
        self._scaled: dict[str, int | None] = {}

    def __getitem__(self, name: str) -> int:
        if name in self._measured:
            return self._measured[name]
        if name not in self._scaled:
            self._scaled[name] = self._scale(name)
        if (cost_us := self._scaled[name]) is None:
            raise KeyError(name)
        return cost_us

    def __contains__(self, name: object) -> bool:
        return name in self._measured

    def __iter__(self) -> Iterator[str]:
        return iter(self._measured)

    def __len__(self) -> int:
        return len(self._measured)

    def _scale(self, name: str) -> int | None:
        own = _read(name)
        if own is None or (found := nearest(own, self._measured)) is None:
            return None
        its, cost_us = found
        return max(1, round(cost_us * own.work / its.work))


def slowest(tables: Iterable[Mapping[tuple[str, str], int]]) -> dict[str, Nearest]:
    """Put together what several runners measured by model and bucket: of each, the slowest."""
    most: dict[str, dict[str, int]] = defaultdict(dict)
    for table in tables:
        for (model, name), cost_us in table.items():
            most[model][name] = max(cost_us, most[model].get(name, 0))
    return {model: Nearest(measured) for model, measured in most.items()}


@functools.lru_cache(maxsize=4096)
def _read(name: str) -> Bucket | None:
    """Read a name; None if it is none."""
    return of(name) if _NAME.fullmatch(name) else None
