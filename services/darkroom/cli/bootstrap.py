"""The first tenant of a platform on this machine.

A connection with the operator's key comes in; one that also has a tenant's key goes out. The tenant and its credit are made once
(one idempotency key); a key that was lost or revoked is made anew.
"""

import dataclasses

from darkroom import client, errors, money
from darkroom.cli import home

TENANT_NAME = "local"
CREDIT_NANOS = 1_000 * money.NANOS


async def ensure_tenant(connection: home.Connection, kept: home.Secrets) -> home.Connection:
    """Make sure that there is a tenant, with credit and a key that works."""
    if kept.tenant_key and await _works(connection):
        return connection
    async with client.AsyncClient(connection, api_key=connection.operator_key) as operator:
        tenant = await operator.create_tenant(
            name=TENANT_NAME, credit=money.Money(CREDIT_NANOS, "USD"), idempotency_key="darkroom-up"
        )
        await _revoke_all(operator, tenant.tenant_id)
        _, api_key = await operator.create_key(tenant_id=tenant.tenant_id, name=TENANT_NAME)
    home.write_secrets(dataclasses.replace(kept, tenant_key=api_key))
    return dataclasses.replace(connection, api_key=api_key)


async def _works(connection: home.Connection) -> bool:
    async with client.AsyncClient(connection, api_key=connection.api_key) as tenant:
        try:
            await tenant.balance()
        except errors.Unauthenticated:
            return False
    return True


async def _revoke_all(operator: client.AsyncClient, tenant_id: str) -> None:
    """End the tenant's keys of this name whose secret was lost: at most two may live."""
    for key in await operator.list_keys(tenant_id=tenant_id):
        if key.name == TENANT_NAME and not key.HasField("revoked_at"):
            await operator.revoke_key(key_id=key.key_id)
