import asyncio

import pytest

from darkroom import embedded_postgres, errors
from darkroom.scheduler.store import fleet as fleet_store
from darkroom.scheduler.store import pools
from tests.scheduler import stage
from tests.scheduler.conftest import Tenant, eventually, rooms

#: So long that the second replica does not take the database for settled while the test runs, however busy the machine.
LASTING = stage.QUICK | {"lease_s": 60.0, "stream_grace_s": 60.0, "silence_s_max": 60.0}


async def epoch(room) -> int:
    return await room.database.fetchval("SELECT max(epoch) FROM pool_lease")


async def aboard(runner) -> bool:
    return bool(runner.aboard())


async def owned(room) -> bool:
    return bool(await room.database.fetchval("SELECT count(*) FROM pool_lease WHERE owner_id <> ''"))


async def same_tenant_at(room, tenant: Tenant, address: str) -> Tenant:
    return room.connect(tenant.tenant_id, tenant.key, address)


async def test_a_dead_owner_is_replaced_and_its_attempts_finish(idle_room, monkeypatch):
    address = await idle_room.start(**stage.QUICK)
    stop_first = idle_room.stop_replica
    tenant = await idle_room.tenant()
    async with stage.runners(idle_room, "node-a") as [runner]:
        runner.behaviour.waits_over = "circle"
        made = [await tenant.create() for _ in range(3)]
        await eventually(lambda: _all_aboard(runner, 3))
        second = await idle_room.start_replica(**stage.QUICK)
        runner.register_at(second)
        before = await epoch(idle_room)

        async def unreachable(*_: object) -> None:
            raise errors.Unavailable("a killed process hands nothing back")

        with monkeypatch.context() as killed:
            killed.setattr(pools.Pools, "release", unreachable)
            await stop_first()
        assert address != second
        await eventually(lambda: _epoch_is(idle_room, before + 1))
        runner.finish_all()
        elsewhere = await same_tenant_at(idle_room, tenant, second)
        for one in made:
            done = await stage.until(elsewhere, one.generation_id)
            assert (done.state, done.attempts) == (stage.SUCCEEDED, 1)
        await stage.settled(idle_room, 3)


async def test_a_replica_that_stops_hands_its_pools_back(idle_room):
    await idle_room.start(lease_s=60.0)
    async with stage.runners(idle_room, "node-a"):
        await eventually(lambda: owned(idle_room))
        await idle_room.stop_replica()
        assert not await owned(idle_room)
        second = await idle_room.start_replica(lease_s=60.0)
        async with stage.runners(idle_room, "node-b", address=second):
            await eventually(lambda: owned(idle_room))
        assert await epoch(idle_room) == 2


async def test_an_outcome_that_came_while_nobody_owned_the_pool_is_taken_by_the_next_owner(idle_room):
    await idle_room.start(**stage.QUICK)
    tenant = await idle_room.tenant()
    async with stage.runners(idle_room, "node-a") as [runner]:
        runner.behaviour.waits_over = "circle"
        made = await tenant.create()
        await eventually(lambda: aboard(runner))
        await idle_room.stop_replica()
        runner.finish_all()
        second = await idle_room.start_replica(**stage.QUICK)
        elsewhere = await same_tenant_at(idle_room, tenant, second)
        done = await stage.until(elsewhere, made.generation_id)
        assert (done.state, done.attempts) == (stage.SUCCEEDED, 1)


async def test_an_owner_that_cannot_read_the_fleet_at_first_buries_nobody(idle_room, monkeypatch):
    await idle_room.start()
    tenant = await idle_room.tenant()
    async with stage.runners(idle_room, "node-a") as [runner]:
        runner.behaviour.waits_over = "circle"
        made = await tenant.create()
        await eventually(lambda: aboard(runner))
        await idle_room.stop_replica()
        of_pool, tries = fleet_store.Fleet.of_pool, []

        async def away_at_first(self, pool):
            tries.append(pool)
            if len(tries) < 4:
                raise errors.Unavailable("the database is away")
            return await of_pool(self, pool)

        monkeypatch.setattr(fleet_store.Fleet, "of_pool", away_at_first)
        second = await idle_room.start_replica(poll_interval_s=2.0)  # longer than between two passes
        runner.register_at(second)

        async def answered() -> bool:
            return len(tries) >= 4

        await eventually(answered)
        runner.finish_all()
        elsewhere = await same_tenant_at(idle_room, tenant, second)
        done = await stage.until(elsewhere, made.generation_id)
        assert (done.state, done.attempts) == (stage.SUCCEEDED, 1)
        assert await idle_room.database.fetchval("SELECT count(*) FROM runner WHERE lost_at IS NOT NULL") == 0


async def test_a_pool_without_runners_or_work_is_let_go(idle_room):
    await idle_room.start(**stage.QUICK)
    async with stage.runners(idle_room, "node-a"):
        await eventually(lambda: owned(idle_room))
    await eventually(lambda: _not(owned(idle_room)))


async def test_a_runner_that_was_taken_for_dead_must_not_come_back(idle_room):
    await idle_room.start(**stage.QUICK)
    async with stage.runners(idle_room, "node-a") as [runner]:
        await stage.all_ready(idle_room, 1)
        runner.behaviour.frozen = True

        async def lost() -> bool:
            return await idle_room.database.fetchval("SELECT count(*) FROM runner WHERE lost_at IS NOT NULL") == 1

        await eventually(lost)
        with pytest.raises(Exception, match="register under a new id"):
            await idle_room.fleet().RegisterRunner(runner.registration())


async def test_postgres_restarts_and_everything_finishes_under_the_same_owner(tmp_path, service_secret, catalog_dir):
    server = embedded_postgres.EmbeddedPostgres(tmp_path / "postgres", durable=False)
    await asyncio.to_thread(server.start)
    try:
        server.create_database("restarted")
        async with rooms(server.url("restarted"), service_secret, catalog_dir) as room:
            await room.start(**LASTING)
            await room.start_replica(**LASTING)  # which must not take over
            tenant = await room.tenant()
            async with stage.runners(room, "node-a") as [runner]:
                runner.behaviour.waits_over = "circle"
                made = [await tenant.create() for _ in range(3)]
                await eventually(lambda: _all_aboard(runner, 3))
                before = await epoch(room)
                await asyncio.to_thread(server.stop)
                runner.finish_all()
                await asyncio.to_thread(server._launch)  # on the same port; start would take another
                for _ in range(5):  # each time either replica may be the first to look
                    await eventually(lambda: _run_out(room))
                    await eventually(lambda: _renewed(room))
                for one in made:
                    done = await stage.until(tenant, one.generation_id)
                    assert (done.state, done.attempts) == (stage.SUCCEEDED, 1)
                assert await epoch(room) == before
                await stage.settled(room, 3)
    finally:
        await asyncio.to_thread(server.stop)


async def _run_out(room) -> bool:
    """Make the lease what it is after an outage that was longer, in which the owner could not renew it."""
    try:
        await room.database.execute("UPDATE pool_lease SET expires_at = clock_timestamp() - interval '1 minute'")
    except errors.Unavailable:  # PostgreSQL is still starting
        return False
    return True


async def _renewed(room) -> bool:
    return await room.database.fetchval("SELECT min(expires_at) > clock_timestamp() FROM pool_lease")


async def _all_aboard(runner, count) -> bool:
    return len(runner.aboard()) == count


async def _epoch_is(room, wanted) -> bool:
    return await epoch(room) == wanted


async def _not(answer) -> bool:
    return not await answer
