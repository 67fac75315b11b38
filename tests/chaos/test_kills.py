"""Processes die under load, and nothing is lost, nothing double. The full 200 are in `benchmarks/load.py --chaos`."""

import asyncio
from pathlib import Path

import pytest

from tests import platforms
from tests.chaos import kills
from tests.journeys import load

GENERATIONS = 40
CONCURRENCY = 32
STEPS = 4


@pytest.mark.timeout(900)  # five starts of processes that load torch, on a machine that may be busy
async def test_nothing_is_lost_and_nothing_double(tmp_path: Path) -> None:
    with platforms.running(tmp_path / "home") as platform:
        tenant = await load.new_tenant(platform, "survivor")
        ended: list[load.Shot] = []
        async with platform.tenant(tenant.api_key) as darkroom, asyncio.TaskGroup() as tasks:
            work = load.shoot(darkroom, count=GENERATIONS, concurrency=CONCURRENCY, steps=STEPS, progress=ended)
            shooting = tasks.create_task(work)
            blows = tasks.create_task(kills.befall(platform, done=lambda: len(ended), count=GENERATIONS))
        assert tuple(blows.result()) == kills.BLOWS
        shots = shooting.result()
        assert load.all_succeeded(shots)
        assert max(shot.generation.attempts for shot in shots) > 1
        await load.audit(platform, tenant, shots)
