"""Tenants and their credit.

Checked requests of operators come in; tenants with their balances go out. Each creating call is idempotent by its key.
"""

from darkroom import errors, ids, postgres
from darkroom.billing_meter import domain, ledger
from darkroom.billing_meter.store import idempotency
from darkroom.billing_meter.store import ledger as ledger_store

_SELECT = """
SELECT tenant_id, name, currency, created_at, available_nanos, held_nanos, receivable_nanos
FROM tenant JOIN balance USING (tenant_id)
"""
_INSERT = "INSERT INTO tenant (tenant_id, name, currency) VALUES ($1, $2, $3)"
_INSERT_BALANCE = "INSERT INTO balance (tenant_id) VALUES ($1)"


async def create(
    database: postgres.Database, *, name: str, currency: str, credit_nanos: int, idempotency_key: str
) -> domain.Tenant:
    """Make a tenant with its account, and its first credit if there is one."""
    tenant_id = ids.new("ten")
    params = (name, currency, credit_nanos)
    async with database.transaction() as connection:
        before = await idempotency.claim(
            connection, method="CreateTenant", idempotency_key=idempotency_key, params=params, subject_id=tenant_id
        )
        if before is None:
            await connection.execute(_INSERT, tenant_id, name, currency)
            await connection.execute(_INSERT_BALANCE, tenant_id)
            if credit_nanos:
                await _post_credit(connection, tenant_id, currency, credit_nanos, f"CreateTenant/{idempotency_key}")
    return await get(database, before or tenant_id)


async def add_credit(
    database: postgres.Database, *, tenant_id: str, currency: str, nanos: int, idempotency_key: str
) -> domain.Tenant:
    """Add prepaid credit once for each idempotency key."""
    async with database.transaction() as connection:
        before = await idempotency.claim(
            connection,
            method="AddCredit",
            idempotency_key=idempotency_key,
            params=(tenant_id, currency, nanos),
            subject_id=tenant_id,
        )
        if before is None:
            await _post_credit(connection, tenant_id, currency, nanos, f"AddCredit/{idempotency_key}")
    return await get(database, tenant_id)


async def get(database: postgres.Database, tenant_id: str) -> domain.Tenant:
    """Read a tenant; NotFound without such a tenant."""
    row = await database.fetchrow(f"{_SELECT} WHERE tenant_id = $1", tenant_id)
    if row is None:
        raise errors.NotFound("tenant", tenant_id)
    return _tenant(row)


async def page(database: postgres.Database, *, after: str, limit: int) -> list[domain.Tenant]:
    """Read up to `limit` tenants by id, those after `after`."""
    rows = await database.fetch(f"{_SELECT} WHERE tenant_id > $1 ORDER BY tenant_id LIMIT $2", after, limit)
    return [_tenant(row) for row in rows]


async def _post_credit(
    connection: postgres.Connection, tenant_id: str, currency: str, nanos: int, subject_id: str
) -> None:
    tenant = await ledger_store.lock(connection, tenant_id, currency=currency)
    posting = ledger_store.posting(domain.Kind.CREDIT, subject_id, ledger.credit(tenant.balance, nanos))
    await ledger_store.post(connection, tenant, [posting])


def _tenant(row: postgres.Row) -> domain.Tenant:
    return domain.Tenant(
        tenant_id=row["tenant_id"],
        name=row["name"],
        currency=row["currency"],
        created_at=row["created_at"],
        balance=domain.Balance(row["available_nanos"], row["held_nanos"], row["receivable_nanos"]),
    )
