import datetime
from typing import Any

from darkroom.scheduler import history
from darkroom.scheduler.domain import generation as domain

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def generation(**fields: Any) -> domain.Generation:
    values: dict[str, Any] = {
        "generation_id": "gen_1",
        "tenant_id": "ten_1",
        "model": "m",
        "model_revision": "r",
        "state": domain.State.SUCCEEDED,
        "priority": domain.Priority.STANDARD,
        "input": b"",
        "tags": {},
        "price_version_id": "p",
        "currency": "USD",
        "estimate_nanos": 1,
        "rates": {},
        "work_us": 1,
        "steps_total": 10,
        "steps_done": 10,
        "sequence": 9,
        "created_at": NOW,
        "finished_at": NOW,
        "artifacts": [{"media_id": "med_1"}],
        "usage": {"steps": 10},
        **fields,
    }
    return domain.Generation(**values)


def event(sequence: int, state: domain.State) -> domain.Event:
    return domain.Event(sequence, state, NOW)


def test_no_change_of_state_is_left_out() -> None:
    events = [
        event(2, domain.State.RUNNING),
        event(5, domain.State.QUEUED),
        event(6, domain.State.RUNNING),
        event(9, domain.State.SUCCEEDED),
    ]
    told = list(history.since(generation(), events, after_sequence=1))
    assert [(each.sequence, each.state.value) for each in told] == [
        (2, "RUNNING"),
        (5, "QUEUED"),
        (6, "RUNNING"),
        (9, "SUCCEEDED"),
    ]
    assert all(not each.artifacts and each.usage is None and each.finished_at is None for each in told[:-1])
    assert told[-1] == generation()


def test_progress_is_told_as_it_is_now() -> None:
    running = generation(state=domain.State.RUNNING, sequence=4, steps_done=7)
    told = list(history.since(running, [event(2, domain.State.RUNNING)], after_sequence=1))
    assert [(each.sequence, each.steps_done) for each in told] == [(2, 0), (4, 7)]


def test_nothing_new_is_not_told() -> None:
    assert list(history.since(generation(), [], after_sequence=9)) == []
