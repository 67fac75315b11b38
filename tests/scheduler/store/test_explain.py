from darkroom.scheduler import poison
from darkroom.scheduler.store import attempts, explain, fleet
from tests.scheduler.store.conftest import make
from tests.scheduler.store.placed import POOL, begin, own, register


async def test_decisions_are_told_in_order_with_why_the_attempt_before_ended(database):
    made, fence = await make(database), await own(database)
    [key] = await begin(database, fence, made.generation_id)
    await attempts.Attempts(database).give_back(
        fence, [key], reason=poison.RUNNER_LOST, judge=lambda *_: poison.Verdict("", True, 0)
    )
    await begin(database, fence, made.generation_id)
    one, two = await explain.Explain(database, seen_within_s=5.0).decisions(made.generation_id)
    assert (one.attempt, one.pool, one.runner_id, one.previous_attempt_end) == (1, POOL, "run_a", "")
    assert one.summary.startswith("run_a on node-a: predicted 1 s")
    assert dict(one.rejections) == {"draining": 2}
    [candidate] = one.candidates
    assert (candidate.runner_id, candidate.node, candidate.predicted_us) == ("run_a", "node-a", 1_000_000)
    assert (candidate.foreign_utilization, dict(candidate.terms), candidate.score) == (0.25, {"time": 1.0}, 0.9)
    assert (two.attempt, two.previous_attempt_end) == (2, "RUNNER_LOST")
    assert two.decided_at.ToDatetime() > one.decided_at.ToDatetime()


async def test_what_a_later_version_notes_of_a_candidate_is_left_out(database):
    made = await make(database)
    await begin(database, await own(database), made.generation_id)
    await database.execute("UPDATE attempt SET decision = jsonb_set(decision, '{candidates,0,later}', '1')")
    [told] = await explain.Explain(database, seen_within_s=5.0).decisions(made.generation_id)
    assert [one.node for one in told.candidates] == ["node-a"]


async def reason(database, generation_id):
    return await explain.Explain(database, seen_within_s=5.0).waiting_reason(generation_id)


async def test_why_it_waits(database):
    made = await make(database)
    assert await reason(database, made.generation_id) == "There is no runner that may load m."
    sick = await register(database)
    await fleet.Fleet(database).save_status({sick.runner_id: {"quarantine": "Xid 79"}})
    await register(database, draining=True)
    assert await reason(database, made.generation_id) == "Every runner that may load m is draining or quarantined."
    await register(database)
    assert (await reason(database, made.generation_id)).endswith("busy with other work: 1.")
    await database.execute("UPDATE generation SET suspect = true")
    assert "runs alone" in await reason(database, made.generation_id)
    await begin(database, await own(database), made.generation_id)
    assert await reason(database, made.generation_id) == ""
