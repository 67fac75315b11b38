"""PostgreSQL for one room: a pool bound to the room's own schema, transactions, migrations.

A room's `store.py` comes in with SQL; rows (by name) go out. A lost connection becomes `errors.Unavailable` (whether a
commit took effect is then unknown: writers are idempotent), a lost race `errors.Aborted`. The pool reconnects by itself
after a restart. A cancelled task ends cancelled, even when its connection is lost on the way out.
"""

import asyncio
import contextlib
import hashlib
import importlib.resources.abc
import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import asyncpg
import asyncpg.pool

from darkroom import errors

ACQUIRE_TIMEOUT_S = 5.0
COMMAND_TIMEOUT_S = 15.0
MIGRATION_TIMEOUT_S = 3600.0  # an index of a table of many millions of rows takes minutes; whoever comes second waits

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
Row: TypeAlias = asyncpg.Record

_MIGRATION = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # shutting down, starting up, terminated
    asyncpg.InsufficientResourcesError,  # disk full, too many connections
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection that the server has just ended, before asyncpg has noticed
    OSError,
    TimeoutError,
)
_RACES = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.LockNotAvailableError)


class MigrationError(Exception):
    """The schema cannot be brought up to date: a migration was changed after it ran, or its file is gone."""


class _Migration(NamedTuple):
    version: int
    name: str
    sql: str
    sha256: str


class Database:
    """A pool of connections whose search_path is the room's schema; jsonb columns are Python objects."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", *, schema: str) -> None:
        self._pool = pool
        self.schema = schema

    @contextlib.asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """Lend a connection, each statement committing by itself."""
        with _translated():
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lend a connection inside a transaction: committed at the end, rolled back by any exception."""
        async with self.acquire() as connection, connection.transaction():
            yield connection

    async def fetch(self, sql: str, *args: object) -> list[Row]:
        """Run one statement; all its rows."""
        async with self.acquire() as connection:
            return await connection.fetch(sql, *args)

    async def fetchrow(self, sql: str, *args: object) -> Row | None:
        """Run one statement; its first row, or None."""
        async with self.acquire() as connection:
            return await connection.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: object) -> Any:
        """Run one statement; the first column of its first row, or None."""
        async with self.acquire() as connection:
            return await connection.fetchval(sql, *args)

    async def execute(self, sql: str, *args: object) -> str:
        """Run one statement (or several without arguments); PostgreSQL's command tag, such as "UPDATE 1"."""
        async with self.acquire() as connection:
            return await connection.execute(sql, *args)

    async def migrate(self, directory: importlib.resources.abc.Traversable) -> None:
        """Bring the schema up to date with the directory's `NNNN_name.sql` files; safe from several processes at once.

        What is pending runs in one transaction under an advisory lock. MigrationError if one that ran before differs.
        """
        migrations = _read_migrations(directory)
        async with self.transaction() as connection:
            await connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))",
                f"migrate {self.schema}",
                timeout=MIGRATION_TIMEOUT_S,
            )
            await connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{self.schema}"')
            await connection.execute(
                "CREATE TABLE IF NOT EXISTS migration (version int PRIMARY KEY, name text NOT NULL,"
                " sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
            )
            done = {row["version"]: row["sha256"] for row in await connection.fetch("SELECT * FROM migration")}
            _check_history(migrations, done)
            for migration in migrations[len(done) :]:
                await connection.execute(migration.sql, timeout=MIGRATION_TIMEOUT_S)
                await connection.execute(
                    "INSERT INTO migration (version, name, sha256) VALUES ($1, $2, $3)",
                    migration.version,
                    migration.name,
                    migration.sha256,
                )


@contextlib.asynccontextmanager
async def connect(database_url: str, *, schema: str, pool_size_max: int = 10) -> AsyncIterator[Database]:
    """Open a pool on `schema` (made by `migrate`), closed at the end; Unavailable if PostgreSQL does not answer."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", schema):
        raise ValueError("a schema's name is lower-case letters, digits and underscores")
    pool = asyncpg.create_pool(
        database_url,
        min_size=1,
        max_size=pool_size_max,
        timeout=ACQUIRE_TIMEOUT_S,
        command_timeout=COMMAND_TIMEOUT_S,
        init=_prepare_connection,
        reset=_keep_session,
        server_settings={
            "search_path": schema,
            "application_name": f"darkroom-{schema}",
            "idle_in_transaction_session_timeout": "30s",
            "timezone": "UTC",
        },
    )
    with _translated():
        await pool
    try:
        yield Database(pool, schema=schema)
    finally:
        await _close(pool)


async def _close(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    try:
        async with asyncio.timeout(ACQUIRE_TIMEOUT_S):
            await pool.close()
    except TimeoutError:
        pool.terminate()


async def _prepare_connection(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)


async def _keep_session(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Do nothing on release: open transactions are rolled back all the same, and the rooms leave no session state behind.

    asyncpg's own RESET ALL is one more round trip for each statement.
    """


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    cancels = _cancels()
    try:
        yield
    except _RACES as error:
        raise errors.Aborted("DATABASE_RACE", "another change came first; try again") from error
    except _AWAY as error:
        if _cancels() > cancels:  # it was met on the way out, and must not take the cancellation's place
            raise asyncio.CancelledError from error
        raise errors.Unavailable("the database does not answer") from error


def _cancels() -> int:
    """How often the present task was asked to end."""
    task = asyncio.current_task()
    return task.cancelling() if task else 0


def _read_migrations(directory: importlib.resources.abc.Traversable) -> list[_Migration]:
    found = []
    for entry in sorted(directory.iterdir(), key=lambda entry: entry.name):
        if match := _MIGRATION.fullmatch(entry.name):
            sql = entry.read_text(encoding="utf-8")
            found.append(_Migration(int(match[1]), entry.name, sql, hashlib.sha256(sql.encode()).hexdigest()))
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise MigrationError("migrations are numbered 0001, 0002, … without gaps")
    return found


def _check_history(migrations: Sequence[_Migration], done: dict[int, str]) -> None:
    known = {migration.version: migration.sha256 for migration in migrations}
    for version, sha256 in done.items():
        if known.get(version) != sha256:
            raise MigrationError(f"migration {version:04d} ran before with another text; add a new one instead")
