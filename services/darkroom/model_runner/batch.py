"""Which rows share the next slice.

In: the rows that want a step, the one that has waited longest first. Out: those that run now, all with one key. Next:
the engine steps them and puts them at the end of the line, so that every row, and so every key, gets its turn.
"""

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

Row = TypeVar("Row")


def pick(rows: Iterable[Row], *, key_of: Callable[[Row], Hashable], rows_max: int) -> list[Row]:
    """Return up to `rows_max` rows with the key of the first one, in their order."""
    picked: list[Row] = []
    for row in rows:
        if len(picked) == rows_max:
            break
        if not picked or key_of(row) == key_of(picked[0]):
            picked.append(row)
    return picked
