"""A pool with an owner and placements in it, for the tests of the stores of the placement half."""

from typing import Any

from darkroom import ids, postgres
from darkroom.scheduler.domain import fleet
from darkroom.scheduler.store import attempts, pools
from darkroom.scheduler.store import fleet as fleet_store

POOL = "fake-1-00000000"
DECISION = fleet.Decision(
    "run_a",
    1_000_000,
    (fleet.Candidate("run_a", "node-a", 1_000_000, 0.25, {"time": 1.0}, 0.9),),
    {"draining": 2},
    "run_a on node-a: predicted 1 s; no other runner could take it (2 draining)",
)


async def own(database: postgres.Database, owner_id: str = "replica-1", *, lease_s: float = 60.0) -> fleet.Fence:
    """Claim the pool."""
    fence = await pools.Pools(database, lease_s=lease_s).claim(POOL, owner_id)
    assert fence is not None
    return fence


def job(generation_id: str, **changes: Any) -> fleet.Job:
    """The generation as a job."""
    values: dict[str, Any] = {"model": "m", "shape": "64x64", "priority": 2, "steps_total": 7, "work_us": 5, **changes}
    return fleet.Job(generation_id=generation_id, tenant_id="ten_x", waited_s=0.0, **values)


async def begin(
    database: postgres.Database, fence: fleet.Fence, *generation_ids: str, **changes: Any
) -> list[fleet.Key]:
    """Begin an attempt of each on run_a; the keys of those that could be begun."""
    placements = [fleet.Placement(job(one, **changes), DECISION) for one in generation_ids]
    begun = await attempts.Attempts(database).begin(fence, placements)
    return [one.attempt.key for one in begun]


async def register(database: postgres.Database, runner_id: str = "", **changes: Any) -> fleet_store.Registration:
    """Register a runner in the pool."""
    values: dict[str, Any] = {
        "runner_id": runner_id or ids.new("run"),
        "pool": POOL,
        "node": "node-a",
        "address": "127.0.0.1:1",
        "device": {"product": "Fake 1"},
        "models": ["m"],
        "draining": False,
        **changes,
    }
    registration = fleet_store.Registration(**values)
    assert await fleet_store.Fleet(database).register(registration)
    return registration
