"""A migrated scheduler database alone, for the stores' tests, and rows to put into it."""

import contextlib
import importlib.resources
from collections.abc import AsyncIterator
from typing import Any

import pytest

from darkroom import ids, postgres
from darkroom.scheduler.domain import generation as domain
from darkroom.scheduler.domain import spending as money
from darkroom.scheduler.store import creates, spending

TENANT = ids.new("ten")


def new(**fields: Any) -> domain.New:
    generation_id = ids.new("gen")
    values: dict[str, Any] = {
        "generation_id": generation_id,
        "tenant_id": TENANT,
        "idempotency_key": generation_id,
        "params_sha256": b"params",
        "model": "m",
        "model_revision": "r",
        "priority": domain.Priority.STANDARD,
        "input": b"input",
        "tags": {"team": "a"},
        "price_version_id": "p",
        "currency": "USD",
        "estimate_nanos": 10,
        "rates": {"nanos_per_image": 1},
        "work_us": 5,
        "fixed_us": 2,
        "encode_us": 3,
        "steps_total": 7,
        "shape": "64x64",
        "deadline_us": None,
        "expected_us": None,
        **fields,
    }
    return domain.New(**values)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[postgres.Database]:
    async with postgres.connect(database_url, schema="scheduler") as opened:
        await opened.migrate(importlib.resources.files("darkroom.scheduler") / "migrations")
        yield opened


async def fund(database: postgres.Database, tenant_id: str, nanos: int) -> None:
    wallet = spending.Spending(database)
    grant = money.Grant(ids.new("lea"), tenant_id, "USD", nanos, nanos)
    await wallet.ask(grant)
    await wallet.apply(grant, granted_nanos=nanos)


async def lease(database: postgres.Database, tenant_id: str = TENANT) -> tuple[int, int]:
    row = await database.fetchrow("SELECT * FROM spending_lease WHERE tenant_id = $1", tenant_id)
    assert row is not None
    return row["remaining_nanos"], row["reserved_nanos"]


async def make(database: postgres.Database, **fields: Any) -> domain.Generation:
    """Fund the tenant and insert one waiting generation."""
    wanted = new(**fields)
    await fund(database, wanted.tenant_id, wanted.estimate_nanos)
    async with database.transaction() as connection:
        (made,) = await creates.insert(connection, [wanted])
    assert isinstance(made, domain.Generation)
    return made


class Counted:
    """A database whose statements are all in one transaction and avoid reading a table whole wherever an index serves."""

    def __init__(self, connection: postgres.Connection, table: str) -> None:
        self.fetch, self.fetchrow = connection.fetch, connection.fetchrow
        self.execute = connection.execute
        self._connection = connection
        self._table = table
        self._before = 0

    async def begin(self) -> None:
        await self.execute("SET LOCAL enable_seqscan = off")  # for a table of a few rows is read whole otherwise
        self._before = await self.rows_read()

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[postgres.Connection]:
        yield self._connection

    async def rows_read(self) -> int:
        """How many of the table's rows were read so far, found by an index or not."""
        count = await self._connection.fetchval(
            "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relid = $1::text::regclass",
            self._table,
        )
        return int(count) - self._before


@contextlib.asynccontextmanager
async def counted(database: postgres.Database, table: str) -> AsyncIterator[Any]:
    """Lend the database to statements whose reading of a table is counted."""
    async with database.transaction() as connection:
        lent = Counted(connection, table)
        await lent.begin()
        yield lent
