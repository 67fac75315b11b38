"""Two tenants of one platform, and all its doors."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests import platforms
from tests.journeys import doors as all_doors
from tests.journeys import load

_tenants: dict[str, load.Tenant] = {}


async def _tenant(platform: platforms.Platform, name: str) -> load.Tenant:
    if name not in _tenants:
        _tenants[name] = await load.new_tenant(platform, name)
    return _tenants[name]


@pytest.fixture(scope="session", autouse=True)
def forget() -> Iterator[None]:
    """Tenants last as long as their platform."""
    yield
    _tenants.clear()


@pytest.fixture
async def anna(platform: platforms.Platform) -> load.Tenant:
    """A tenant."""
    return await _tenant(platform, "anna")


@pytest.fixture
async def boris(platform: platforms.Platform) -> load.Tenant:
    """Another."""
    return await _tenant(platform, "boris")


@pytest.fixture
async def doors(platform: platforms.Platform) -> AsyncIterator[all_doors.Doors]:
    """Every RPC of the platform."""
    async with all_doors.opened(platform) as opened:
        yield opened
