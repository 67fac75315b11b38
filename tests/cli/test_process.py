import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import click
import psutil
import pytest
import tenacity

from darkroom.cli import process


@pytest.fixture
def room(database_url: str, service_secret: str) -> process.Room:
    """The billing_meter, which calls nobody."""
    settings = {"DARKROOM_DATABASE_URL": database_url, "DARKROOM_SERVICE_SECRET": service_secret}
    return process.Room("meter", "billing_meter", {**os.environ, **settings, "DARKROOM_PARENT_PID": str(os.getpid())})


@contextlib.asynccontextmanager
async def run(room: process.Room, logs: Path) -> AsyncIterator[tuple[process.Supervised, asyncio.Queue[str]]]:
    told: asyncio.Queue[str] = asyncio.Queue()
    async with process.supervised(room, logs, say=told.put_nowait) as supervised:
        yield supervised, told


async def test_it_serves_and_is_stopped_with_the_block(room: process.Room, tmp_path: Path) -> None:
    async with run(room, tmp_path) as (supervised, told):
        host, _, port = (await supervised.ready()).partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.close()
        pid = supervised.pid
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)
    assert told.empty()


async def test_one_that_is_killed_is_started_again(room: process.Room, tmp_path: Path) -> None:
    async with run(room, tmp_path) as (supervised, told):
        await supervised.ready()
        first = supervised.pid
        os.kill(first, signal.SIGKILL)
        assert await told.get() == "meter ended with exit code -9: starting it again in 0.4 s"
        async for attempt in tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(AssertionError),
            wait=tenacity.wait_fixed(0.05),
            stop=tenacity.stop_after_delay(60),
        ):
            with attempt:
                assert (second := supervised.pid) != first
        assert psutil.Process(second).cmdline()[-2:] == ["serve", "billing_meter"]
    assert not psutil.pid_exists(second)


async def test_one_that_cannot_start_shows_the_end_of_its_own_log(room: process.Room, tmp_path: Path) -> None:
    broken = room._replace(environment=room.environment | {"DARKROOM_SERVICE_SECRET": "short"})
    (tmp_path / "meter.log").write_text("what an earlier start has told\n")
    async with run(broken, tmp_path) as (supervised, told):
        with pytest.raises(click.ClickException) as failure:
            await supervised.ready()
    first, last = failure.value.message.splitlines()
    assert first == f"meter ended with exit code 2 before it served; its log is {tmp_path}/meter.log, which ends:"
    assert last.startswith("darkroom: DARKROOM_SERVICE_SECRET ")
    assert told.empty()  # nor is it started again
