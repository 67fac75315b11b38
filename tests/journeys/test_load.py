"""Many tenants' worth of work at once: all of it succeeds, and the books are exact. The full 200 are in `benchmarks/load.py`."""

from tests import platforms
from tests.journeys import load

GENERATIONS = 60
CONCURRENCY = 32
STEPS = 2


async def test_a_crowd_is_served_and_billed_exactly(platform: platforms.Platform) -> None:
    tenant = await load.new_tenant(platform, "crowd")
    async with platform.tenant(tenant.api_key) as darkroom:
        shots = await load.shoot(darkroom, count=GENERATIONS, concurrency=CONCURRENCY, steps=STEPS)
        again = await load.shoot(darkroom, count=GENERATIONS, concurrency=CONCURRENCY, steps=STEPS)
    assert [shot.generation.generation_id for shot in again] == [shot.generation.generation_id for shot in shots]
    await load.audit(platform, tenant, shots)
