from darkroom.scheduler import predict
from darkroom.scheduler.store import attempts, fleet
from tests.scheduler.store.conftest import make
from tests.scheduler.store.placed import POOL, begin, own, register


async def test_a_runner_registers_again_and_again(database):
    registration = await register(database)
    await register(database, **{**registration._asdict(), "draining": True, "address": "127.0.0.1:2"})
    [row] = await fleet.Fleet(database).of_pool(POOL)
    assert (row.draining, row.address) == (True, "127.0.0.1:2")


async def test_a_runner_cannot_change_its_pool(database):
    registration = await register(database)
    assert not await fleet.Fleet(database).register(registration._replace(pool="other"))


async def test_the_lost_are_listed_only_when_asked_for(database):
    store, fence = fleet.Fleet(database), await own(database)
    first, second = [(await register(database)).runner_id for _ in range(2)]
    await attempts.Attempts(database).lose_runner(fence, first, judge=lambda *_: None)
    assert [row.registration.runner_id for row in await store.page(after_id="", include_lost=False, limit=9)] == [
        second
    ]
    rows = await store.page(after_id="", include_lost=True, limit=9)
    assert {row.registration.runner_id: row.lost for row in rows} == {first: True, second: False}
    assert [row.runner_id for row in await store.of_pool(POOL)] == [second]


async def test_pages_go_by_id(database):
    store = fleet.Fleet(database)
    wanted = sorted([(await register(database)).runner_id for _ in range(5)])
    first = await store.page(after_id="", include_lost=False, limit=3)
    rest = await store.page(after_id=first[-1].registration.runner_id, include_lost=False, limit=3)
    assert [row.registration.runner_id for row in [*first, *rest]] == wanted


async def test_live_runners_registered_lately_and_take_work(database):
    store = fleet.Fleet(database)
    live = await register(database)
    await register(database, draining=True)
    silent = await register(database)
    await database.execute(
        "UPDATE runner SET seen_at = seen_at - interval '1 minute' WHERE runner_id = $1", silent.runner_id
    )
    sick = await register(database)
    await store.save_status({live.runner_id: {"quarantine": ""}, sick.runner_id: {"quarantine": "Xid 79"}})
    assert [row.registration.runner_id for row in await store.live(seen_within_s=5.0)] == [live.runner_id]


async def test_status_is_kept_for_other_replicas(database):
    store = fleet.Fleet(database)
    registration = await register(database)
    await store.save_status({registration.runner_id: {"attempts": 3}})
    [row] = await store.page(after_id="", include_lost=False, limit=1)
    assert row.status == {"attempts": 3}


async def test_loads_add_up_what_waits_and_what_is_aboard_each_runner(database):
    fence = await own(database)
    made = [await make(database, work_us=5) for _ in range(4)]
    await make(database, model="k", work_us=7)
    await begin(database, fence, *(one.generation_id for one in made[:2]))
    *waiting, aboard = sorted(await fleet.Fleet(database).loads(), key=lambda load: load.runner_id)
    assert set(waiting) == {("m", 2, 10, "", 0), ("k", 2, 7, "", 0)}
    assert aboard[:4] == ("m", 2, 10, "run_a")
    assert aboard.aboard_us > 0


async def test_steps_that_are_done_are_no_load(database):
    fence, work = await own(database), {"work_us": 1_100, "fixed_us": 100, "steps_total": 10}
    running, suspended, late = [(await make(database, **work)).generation_id for _ in range(3)]
    keys = await begin(database, fence, running, suspended, late)
    steps = [attempts.Step(key, done, 0) for key, done in zip(keys, (8, 0, 99), strict=True)]
    await attempts.Attempts(database).progress(steps)
    await database.execute("UPDATE generation SET state = 'QUEUED', steps_done = 4 WHERE generation_id = $1", suspended)
    loads = {load.runner_id: load.work_us for load in await fleet.Fleet(database).loads()}
    left = [predict.left_us(1_100, fixed_us=100, steps_total=10, steps_done=done) for done in (8, 99, 4)]
    assert loads == {"run_a": left[0] + left[1], "": left[2]} == {"run_a": 300 + 100, "": 700}


async def test_the_sweep_forgets_those_lost_long_ago(database):
    store, fence = fleet.Fleet(database), await own(database)
    old, new = [(await register(database)).runner_id for _ in range(2)]
    for runner_id in (old, new):
        await attempts.Attempts(database).lose_runner(fence, runner_id, judge=lambda *_: None)
    await database.execute("UPDATE runner SET lost_at = lost_at - interval '2 hours' WHERE runner_id = $1", old)
    await store.sweep()
    assert [row.registration.runner_id for row in await store.page(after_id="", include_lost=True, limit=9)] == [new]
