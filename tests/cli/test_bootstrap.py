import dataclasses
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from darkroom import client, errors
from darkroom.cli import bootstrap, home, process


@pytest.fixture
async def connection(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[home.Connection]:
    """A new platform, of which only billing_meter is needed here."""
    monkeypatch.setenv("DARKROOM_HOME", str(tmp_path / "home"))
    kept = home.read_secrets()
    settings = {
        "DARKROOM_DATABASE_URL": database_url,
        "DARKROOM_SERVICE_SECRET": kept.service_secret,
        "DARKROOM_OPERATOR_KEY": kept.operator_key,
    }
    meter = process.Room("meter", "billing_meter", {**os.environ, **settings})
    async with process.supervised(meter, tmp_path, say=print) as supervised:
        addresses = dict.fromkeys(home.ADDRESSES, await supervised.ready())
        yield home.Connection(**addresses, operator_key=kept.operator_key)


async def tenants(connection: home.Connection) -> list[tuple[str, int]]:
    async with client.AsyncClient(connection, api_key=connection.operator_key) as operator:
        return [(tenant.name, tenant.balance.nanos) for tenant in await operator.tenants()]


async def works(connection: home.Connection) -> bool:
    async with client.AsyncClient(connection, api_key=connection.api_key) as tenant:
        return (await tenant.balance()).balance.nanos == bootstrap.CREDIT_NANOS


async def test_a_new_platform_gets_one_tenant_with_credit_whose_key_is_kept(connection: home.Connection) -> None:
    first = await bootstrap.ensure_tenant(connection, home.read_secrets())
    assert await works(first)
    kept = home.read_secrets()
    assert kept.tenant_key == first.api_key
    again = await bootstrap.ensure_tenant(dataclasses.replace(connection, api_key=kept.tenant_key), kept)
    assert again == first
    assert (await tenants(connection)).count((bootstrap.TENANT_NAME, bootstrap.CREDIT_NANOS)) == 1


async def test_a_key_that_was_lost_is_made_anew_and_the_old_one_ends(connection: home.Connection) -> None:
    lost = await bootstrap.ensure_tenant(connection, home.read_secrets())
    found = await bootstrap.ensure_tenant(connection, dataclasses.replace(home.read_secrets(), tenant_key=""))
    assert await works(found)
    with pytest.raises(errors.Unauthenticated):
        await works(lost)
    assert (await tenants(connection)).count((bootstrap.TENANT_NAME, bootstrap.CREDIT_NANOS)) == 1


async def test_a_key_that_was_revoked_is_made_anew(connection: home.Connection) -> None:
    revoked = await bootstrap.ensure_tenant(connection, home.read_secrets())
    async with client.AsyncClient(connection, api_key=connection.operator_key) as operator:
        (tenant,) = [tenant for tenant in await operator.tenants() if tenant.name == bootstrap.TENANT_NAME]
        (key,) = await operator.list_keys(tenant_id=tenant.tenant_id)
        await operator.revoke_key(key_id=key.key_id)
    anew = await bootstrap.ensure_tenant(revoked, home.read_secrets())
    assert anew.api_key != revoked.api_key
    assert await works(anew)
