"""What becomes of a generation whose attempt ended through no fault of its request.

Its record and how the last attempt ended come in; a `Verdict` goes out: placed again, or failed for good. A generation aboard a dying
runner is only a suspect: it is run again alone, and convicted when runners keep dying with nobody else aboard.
"""

from typing import NamedTuple

RUNNER_LOST = "RUNNER_LOST"
RUNNER_FAULT = "RUNNER_FAULT"
SUSPENDED = "SUSPENDED"
POISONED = "POISONED"
MESSAGES = {
    POISONED: "Every runner that ran it alone died, so the request itself is to blame.",
    RUNNER_FAULT: "Every runner that tried it failed, through no fault of the request.",
}


class Limits(NamedTuple):
    """From the configuration."""

    attempts_max: int
    solo_deaths_max: int


class Record(NamedTuple):
    """What a generation has behind it."""

    attempts: int
    """Without those forgiven."""
    suspect: bool
    solo_deaths: int


class Verdict(NamedTuple):
    """`failure` is the reason to fail for good; empty: placed again, alone if `suspect`."""

    failure: str
    suspect: bool
    solo_deaths: int
    forgiven: bool = False  # the attempt does not count towards attempts_max


def after_death(record: Record, *, solo: bool, limits: Limits) -> Verdict:
    """Its runner died with it aboard; `solo` says that nobody else was."""
    deaths = record.solo_deaths + solo
    if deaths >= limits.solo_deaths_max:
        return Verdict(POISONED, suspect=True, solo_deaths=deaths)
    return after_fault(record._replace(suspect=True, solo_deaths=deaths), limits=limits)


def after_fault(record: Record, *, limits: Limits) -> Verdict:
    """Its runner lives but could not do it, or lost it."""
    failure = RUNNER_FAULT if record.attempts >= limits.attempts_max else ""
    return Verdict(failure, record.suspect, record.solo_deaths)


def after_suspension(record: Record, *, forgiven: bool, limits: Limits) -> Verdict:
    """Its runner put it aside: forgiven if it went on before or the runner drains, else given up like after faults."""
    verdict = after_fault(record, limits=limits)
    return verdict._replace(failure="", forgiven=True) if forgiven else verdict
