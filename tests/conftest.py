"""Fixtures that every room's tests share: one real PostgreSQL per test process, a fresh database for each test, free
ports, one whole platform.
"""

import secrets
import socket
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from darkroom import embedded_postgres
from tests import platforms


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded_postgres.EmbeddedPostgres]:
    """A running server, shared by all tests of this process; a test that restarts it starts one of its own instead."""
    server = embedded_postgres.EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), durable=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def database_url(postgres_server: embedded_postgres.EmbeddedPostgres) -> AsyncIterator[str]:
    """The address of a fresh, empty database, dropped after the test."""
    name = f"test_{secrets.token_hex(6)}"
    admin = await asyncpg.connect(postgres_server.url())
    try:
        await admin.execute(f'CREATE DATABASE "{name}" STRATEGY file_copy')
        yield postgres_server.url(name)
        await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    finally:
        await admin.close()


@pytest.fixture
def service_secret() -> str:
    """What signs the tokens between rooms."""
    return secrets.token_hex(32)


@pytest.fixture
def free_port() -> int:
    """A loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[platforms.Platform]:
    """A whole platform that serves, shared by all tests of this process that do not break it."""
    with platforms.running(tmp_path_factory.mktemp("platform") / "home") as started:
        yield started
