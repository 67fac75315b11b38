import dataclasses

from darkroom.scheduler.domain import fleet
from darkroom.scheduler.loop.roster import Aboard, Roster


def aboard(name, runner_id="run_a", *, model="m", solo=False, work_us=100, priority=2, steps_done=0, aboard_us=0):
    key, fixed_us, steps_total = fleet.Key(name, 1, 1), 20, 4
    attempt = fleet.Attempt(
        key, "ten_x", model, runner_id, solo, priority, 7, fixed_us, steps_total, steps_done, aboard_us
    )
    return Aboard(attempt, stream=1, work_us=work_us)


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
    runner = fleet.Runner(runner_id="run_a", node="n", models=frozenset({"m", "k"}), resident=frozenset({"m", "k"}))
    assert roster.load(runner, {}) == runner
    roster.add(aboard("g1", work_us=100, steps_done=1))
    roster.add(aboard("g2", work_us=40, model="k"))
    roster.add(aboard("g5", work_us=70, priority=3))
    roster.add(aboard("g3", "run_b", solo=True))
    expected = dataclasses.replace(runner, attempts=3, backlog_us={2: 120, 3: 70})
    assert roster.load(runner, {}) == expected
    roster.add(aboard("g4", solo=True))
    assert roster.load(runner, {}).has_solo


def test_progress_makes_the_load_less():
    roster = Roster()
    runner = fleet.Runner(runner_id="run_a", node="n", models=frozenset({"m"}), resident=frozenset({"m"}))
    roster.add(resumed := aboard("g1", steps_done=2))  # by its checkpoint
    assert roster.load(runner, {}).backlog_us == {2: 60}
    resumed.steps_done = 3
    assert roster.load(runner, {}).backlog_us == {2: 40}
    resumed.steps_done = 4
    assert roster.load(runner, {}).backlog_us == {2: 20}  # decoding comes after the steps


def test_a_model_is_loading_since_the_first_came_for_it():
    roster = Roster()
    runner = fleet.Runner(runner_id="run_a", node="n", models=frozenset({"m", "k"}), resident=frozenset({"k"}))
    roster.add(aboard("g1", aboard_us=600_000_000))
    roster.add(aboard("g2", aboard_us=100_000_000))
    loaded = roster.load(runner, {"m": 1_000_000_000, "k": 5_000_000_000})
    assert 300_000_000 < loaded.loading_us <= 400_000_000  # of this test, a minute and a half
    assert loaded.resident == {"m", "k"}
