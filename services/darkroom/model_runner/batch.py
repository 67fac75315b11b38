"""Who gets the device next, and who shares it with them.

In: everybody who wants the device now, as `Ask`s. Out: their order, and those that run together. An ask's class counts
first, then its deadline, then what its tenant has had, then its arrival. Whoever has waited longer than the ageing time
counts one class higher and goes before those who were born into it, so that no class starves. Next: the engine's step
loop runs what was picked.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple


class Ask(NamedTuple):
    """Somebody who wants the device; all times are on one clock."""

    key: Hashable
    """Asks with equal keys may share it."""
    priority: int
    """The class; 0 is the most urgent."""
    waiting_since_us: int
    arrived_us: int
    eagerness: int = 0
    """Within a class, what goes first: 0 before 1."""
    deadline_us: int | None = None
    tenant_us: int = 0
    """Device time that its tenant has had."""


Level = tuple[int, int]
"""The class after ageing, and 0 for who has aged into it, 1 for who was born there; the lower, the more urgent."""


def level(ask: Ask, *, now_us: int, ageing_us: int) -> Level:
    """Return how urgent an ask is: one class higher for each ageing time that it has waited."""
    aged = min(max(now_us - ask.waiting_since_us, 0) // ageing_us, ask.priority)
    return ask.priority - aged, 0 if aged else 1


def order(asks: Sequence[Ask], *, now_us: int, ageing_us: int) -> list[int]:
    """Return the indices of `asks`, who goes first in front."""

    def rank(index: int) -> tuple[Level, float, int, float, int, int, int]:
        ask = asks[index]
        urgency = level(ask, now_us=now_us, ageing_us=ageing_us)
        waited_longest = ask.waiting_since_us if urgency[1] == 0 else math.inf
        deadline_us = math.inf if ask.deadline_us is None else float(ask.deadline_us)
        if deadline_us < now_us:
            deadline_us = math.inf  # it is missed: to hurry now would only make others miss theirs
        return urgency, waited_longest, ask.eagerness, deadline_us, ask.tenant_us, ask.arrived_us, index

    return sorted(range(len(asks)), key=rank)


def companions(asks: Sequence[Ask], ordered: Sequence[int], leader: int) -> list[int]:
    """Return the indices of those who could share with `leader`, itself first, in the order of `ordered`."""
    others = (index for index in ordered if index != leader and asks[index].key == asks[leader].key)
    return [leader, *others]


def share(levels: Sequence[Level], *, rows_worth: int, rows_unhurried: Callable[[int], int]) -> int:
    """Return how many of a leader and its companions run together.

    `levels` are theirs, the leader's first; `rows_worth` is how many pay off; `rows_unhurried(n)` is how many n rows may
    become before the less urgent ones slow the urgent ones too much.
    """
    peers = sum(1 for other in levels if other <= levels[0])
    wanted = min(len(levels), rows_worth)
    return max(min(wanted, peers), min(wanted, rows_unhurried(min(wanted, peers))))
