import dataclasses

from darkroom.scheduler.domain import fleet
from darkroom.scheduler.loop.roster import Aboard, Roster


def aboard(name, runner_id="run_a", *, model="m", solo=False, work_us=100, priority=2, **changes):
    attempt = fleet.Attempt(fleet.Key(name, 1, 1), "ten_x", model, runner_id, solo, work_us, priority)
    return Aboard(attempt, stream=1, work_us=work_us, **changes)


def test_it_knows_what_is_aboard_whom():
    roster = Roster()
    for one in (aboard("g1"), aboard("g2"), aboard("g3", "run_b")):
        roster.add(one)
    assert [one.attempt.key.generation_id for one in roster.of("run_a")] == ["g1", "g2"]
    roster.drop(fleet.Key("g1", 1, 1))
    roster.drop(fleet.Key("g1", 1, 1))
    assert roster.get(fleet.Key("g1", 1, 1)) is None
    assert roster.get(fleet.Key("g2", 1, 2)) is None
    assert len(list(roster)) == 2


def test_dropping_while_walking_is_fine():
    roster = Roster()
    for number in range(5):
        roster.add(aboard(f"g{number}"))
    for one in roster:
        roster.drop(one.attempt.key)
    assert list(roster) == []


def test_the_load_counts_what_is_left_to_do():
    roster = Roster()
    runner = fleet.Runner(runner_id="run_a", node="n", models=frozenset({"m", "k"}))
    assert roster.load(runner) == runner
    roster.add(aboard("g1", work_us=100, share_done=0.25))
    roster.add(aboard("g2", work_us=40, model="k"))
    roster.add(aboard("g5", work_us=70, priority=3))
    roster.add(aboard("g3", "run_b", solo=True))
    expected = dataclasses.replace(runner, attempts=3, backlog_us={2: 115, 3: 70}, resident=frozenset({"m", "k"}))
    assert roster.load(runner) == expected
    roster.add(aboard("g4", solo=True))
    assert roster.load(runner).has_solo
