import asyncio
import contextlib
import json
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import click
import psutil
import pytest
import tenacity

from darkroom import embedded_postgres
from darkroom.cli import home
from darkroom.cli import platform as command_platform
from tests import platforms
from tests.cli.conftest import command

PATIENCE_S = 120.0
pytestmark = pytest.mark.timeout(600)  # each starts a platform, which takes minutes where others work too
ROOMS = (*command_platform.CONTROL_ROOMS, "model_runner")


def soon() -> tenacity.Retrying:
    """Try until it holds: a busy machine takes its time."""
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(AssertionError),
        wait=tenacity.wait_fixed(0.2),
        stop=tenacity.stop_after_delay(PATIENCE_S),
        reraise=True,
    )


@contextlib.contextmanager
def started(folder: Path) -> Iterator[platforms.Platform]:
    """A platform that the test itself ends."""
    platform = platforms.launch(folder)
    try:
        yield platform
    finally:
        platform.process.send_signal(signal.SIGINT)
        platform.process.wait()


def lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def first_of_postgres(folder: Path) -> psutil.Process:
    return psutil.Process(int((folder / "postgres" / "data" / "postmaster.pid").read_text().splitlines()[0]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home for the platforms of this file, one after the other."""
    folder = tmp_path_factory.mktemp("own") / "home"
    yield folder
    embedded_postgres.EmbeddedPostgres(folder / "postgres").stop()  # if a test broke off


def test_every_room_ends_with_a_platform_that_is_killed(folder: Path) -> None:
    with started(folder) as platform:
        assert stat.S_IMODE((folder / "connection.json").stat().st_mode) == 0o600
        rooms = [process for room in ROOMS for process in platform.rooms(room)]
        assert len(rooms) == 5
        platform.process.kill()
        platform.process.wait()
    for attempt in soon():
        with attempt:
            assert not [process for process in rooms if lives(process)]


def test_it_starts_again_where_one_was_killed_and_ends_by_sigterm(folder: Path) -> None:
    left = first_of_postgres(folder)
    kept = home.Connection(**json.loads((folder / "connection.json").read_text()))
    assert lives(left)
    with started(folder) as platform:
        assert platform.connection.api_key == kept.api_key
        assert not lives(left)
        assert command(folder)("billing", "balance").code == 0

        refused = command(folder)("up")
        assert (refused.code, refused.out) == (1, "")
        assert refused.err.startswith(f"darkroom: a platform already runs in {folder}: ")

        first_of_postgres(folder).kill()
        for attempt in soon():
            with attempt:
                assert command(folder)("billing", "balance").code == 0
                assert "PostgreSQL had ended: started it again" in platform.log("up")

        family = [*psutil.Process(platform.process.pid).children(), first_of_postgres(folder)]
        assert len(family) == 6
        platform.process.send_signal(signal.SIGTERM)
        assert platform.process.wait(PATIENCE_S) == 0
    assert not [process for process in family if lives(process)]
    assert not (folder / "connection.json").exists()
    assert platform.log("up").splitlines()[-1] == "stopping"


def test_sigterm_while_it_starts_is_an_interruption_not_a_traceback() -> None:
    with pytest.raises(click.Abort):
        command_platform.run(_ended())


async def _ended() -> None:
    command_platform._stop_on_sigterm()
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(PATIENCE_S)
