import asyncio

import pytest

from darkroom import errors
from darkroom.scheduler import leases
from darkroom.scheduler.store import pools
from tests.scheduler.store.conftest import make
from tests.scheduler.store.placed import POOL, begin, own, register


async def test_one_of_many_claims_wins(database):
    store = pools.Pools(database, lease_s=60.0)
    claims = await asyncio.gather(*(store.claim(POOL, f"replica-{n}") for n in range(8)))
    assert len([fence for fence in claims if fence]) == 1


async def test_a_claim_needs_the_lease_to_have_run_out_and_raises_the_epoch(database):
    store = pools.Pools(database, lease_s=60.0)
    first = await store.claim(POOL, "replica-1")
    assert first == (POOL, "replica-1", 1)
    assert await store.claim(POOL, "replica-2") is None
    await database.execute("UPDATE pool_lease SET expires_at = clock_timestamp()")
    assert await store.claim(POOL, "replica-2") == (POOL, "replica-2", 2)


async def test_renewing_tells_which_are_still_ours(database):
    store = pools.Pools(database, lease_s=60.0)
    lost, kept = await store.claim("lost", "replica-1"), await store.claim("kept", "replica-1")
    assert lost is not None
    assert kept is not None
    await database.execute("UPDATE pool_lease SET expires_at = clock_timestamp()")
    await store.claim("lost", "replica-2")
    assert await store.renew([lost, kept]) == {kept}
    assert await store.claim("kept", "replica-2") is None


async def test_what_is_handed_back_can_be_taken_at_once(database):
    store = pools.Pools(database, lease_s=60.0)
    first = await store.claim(POOL, "replica-1")
    assert first is not None
    await store.release(first)
    second = await store.claim(POOL, "replica-2")
    assert second is not None
    await store.release(first)  # an old owner hands nothing of the new one's back
    assert await store.renew([second]) == {second}


async def test_holding_keeps_the_owner_from_changing_until_the_end(database):
    fence = await own(database, lease_s=0.0)
    async with database.transaction() as connection:
        await pools.hold(connection, fence)
        claim = asyncio.create_task(pools.Pools(database, lease_s=60.0).claim(POOL, "replica-2"))
        done, _ = await asyncio.wait([claim], timeout=0.2)
        assert not done
    assert await claim == (POOL, "replica-2", fence.epoch + 1)
    with pytest.raises(errors.Aborted):
        async with database.transaction() as connection:
            await pools.hold(connection, fence)


async def test_the_outlook_shows_pools_with_runners_or_running_work(database):
    store = pools.Pools(database, lease_s=60.0)
    assert (await store.outlook()).standings == []
    await register(database, pool="other")
    fence = await own(database)
    await begin(database, fence, (await make(database)).generation_id)
    outlook = await store.outlook()
    assert set(outlook.standings) == {leases.Standing("other", "", True), leases.Standing(POOL, "replica-1", False)}
    assert outlook.up_s > 0
