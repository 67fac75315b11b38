"""What a watcher is told.

A generation as it is now and the changes of state since a sequence number come in; the generation as it was after each of them goes
out, and last as it is now. No change of state is left out; progress between two of them may be.
"""

import dataclasses
from collections.abc import Iterator, Sequence

from darkroom.scheduler.domain import generation as domain


def since(
    present: domain.Generation, events: Sequence[domain.Event], *, after_sequence: int
) -> Iterator[domain.Generation]:
    """Yield the generation after each event, and as it is now if it went on since the last one."""
    for event in events:
        if event.sequence < present.sequence:
            yield _as_of(present, event)
    if present.sequence > after_sequence:
        yield present


def _as_of(present: domain.Generation, event: domain.Event) -> domain.Generation:
    """The generation at an earlier event: what only its end knows is not there yet, nor is later progress."""
    return dataclasses.replace(
        present,
        state=event.state,
        sequence=event.sequence,
        steps_done=0,
        finished_at=None,
        started_at=None if present.started_at and present.started_at > event.at else present.started_at,
        error=None,
        usage=None,
        stages=None,
        artifacts=[],
        runner_id=None,
        resumed_step=0,
    )
