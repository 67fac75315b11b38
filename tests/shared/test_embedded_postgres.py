"""The embedded server starts, keeps its data through a crash, admits nobody without its password, and leaves nothing
behind.
"""

import stat
from pathlib import Path

import asyncpg
import psutil
import pytest

from darkroom import embedded_postgres


@pytest.fixture
def server(tmp_path: Path):
    server = embedded_postgres.EmbeddedPostgres(tmp_path / "below" / "postgres", durable=False)
    server.start()
    yield server
    server.stop()


async def _ask(url: str, sql: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def test_data_survives_an_immediate_restart_on_the_same_address(server):
    url = server.url()
    await _ask(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    server.restart(immediate=True)
    assert server.url() == url
    assert await _ask(url, "SELECT answer FROM kept") == 42


async def test_a_second_start_finds_the_data_and_replaces_a_server_left_over(server, tmp_path):
    await _ask(server.url(), "CREATE TABLE kept AS SELECT 42 AS answer")
    again = embedded_postgres.EmbeddedPostgres(tmp_path / "below" / "postgres", durable=False)
    again.start()
    assert await _ask(again.url(), "SELECT answer FROM kept") == 42
    with pytest.raises(ConnectionRefusedError):
        await _ask(server.url(), "SELECT 1")


async def test_create_database_is_idempotent(server):
    server.create_database("pictures")
    server.create_database("pictures")
    assert await _ask(server.url("pictures"), "SELECT current_database()") == "pictures"


async def test_only_the_password_opens_it(server):
    with pytest.raises(asyncpg.InvalidPasswordError):
        await _ask(server.url().replace("darkroom:", "darkroom:x"), "SELECT 1")


def test_the_data_is_closed_to_others(server, tmp_path):
    directory = tmp_path / "below" / "postgres"
    assert stat.S_IMODE((directory / "data").stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "password").stat().st_mode) == 0o600
    assert not list((directory / "data").glob(".s.PGSQL*"))


def test_stop_leaves_no_process(server, tmp_path):
    pid = int((tmp_path / "below" / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
    assert psutil.pid_exists(pid)
    server.stop()
    server.stop()
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_failing_tool_says_why(server):
    with pytest.raises(embedded_postgres.EmbeddedPostgresError, match="does not exist"):
        server.create_database("copy", template="nothing")
