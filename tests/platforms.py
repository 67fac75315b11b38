"""Whole platforms for tests: `darkroom up` as a process of its own, asked through real gRPC and looked at from outside.

A folder comes in; a `Platform` goes out: its connection, its database, its processes to kill. When the block ends it is stopped by
SIGINT, as Ctrl-C does, and whatever it leaves running fails the test.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import psutil

from darkroom import client, embedded_postgres
from darkroom.cli import home

START_TIMEOUT_S = 240.0  # 2 busy cores: torch alone can take a minute to import
STOP_TIMEOUT_S = 90.0
POLL_S = 0.1


class Platform(NamedTuple):
    """A platform that serves."""

    folder: Path
    connection: home.Connection
    process: subprocess.Popen[bytes]

    def tenant(self, api_key: str = "") -> client.AsyncClient:
        """A client with this key; without one, with that of the platform's first tenant."""
        return client.AsyncClient(self.connection, api_key=api_key or self.connection.api_key)

    def operator(self) -> client.AsyncClient:
        """A client with the operator's key."""
        return self.tenant(self.connection.operator_key)

    def postgres(self) -> embedded_postgres.EmbeddedPostgres:
        """Its PostgreSQL, to ask or to restart."""
        server = embedded_postgres.EmbeddedPostgres(self.folder / "postgres")
        server.attach()
        return server

    def rooms(self, room: str) -> list[psutil.Process]:
        """The processes that run a room now."""
        return [child for child in psutil.Process(self.process.pid).children() if _runs(child, room)]

    def log(self, name: str) -> str:
        """What one of its processes has logged: a room's name, "model_runner-0" or "up"."""
        return (self.folder / "logs" / f"{name}.log").read_text()


def launch(folder: Path, *, environment: Mapping[str, str] | None = None, runners: int = 1) -> Platform:
    """Start a platform in `folder` and wait until it serves; whoever calls ends it."""
    (folder / "logs").mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / "connection.json").unlink(missing_ok=True)  # of one that was killed here
    variables = {**os.environ, "DARKROOM_HOME": str(folder), "DARKROOM_THREADS": "1", **(environment or {})}
    command = [sys.executable, "-m", "darkroom", "up", "--runners", str(runners)]
    with (folder / "logs" / "up.log").open("wb") as log:
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=subprocess.STDOUT)
    try:
        return Platform(folder, _connection(folder, process), process)
    except BaseException:
        _end(process, folder)
        raise


@contextlib.contextmanager
def running(folder: Path, *, environment: Mapping[str, str] | None = None, runners: int = 1) -> Iterator[Platform]:
    """Run a platform in `folder` while the block lasts."""
    platform = launch(folder, environment=environment, runners=runners)
    try:
        yield platform
    finally:
        code = _end(platform.process, folder)
    assert code == 0, (folder / "logs" / "up.log").read_text()


def _end(process: subprocess.Popen[bytes], folder: Path) -> int:
    """Press Ctrl-C; the exit code. Whatever is left of the platform is killed, and fails the test."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    left = [each for each in psutil.process_iter() if _belongs(each, folder)]
    for each in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    assert not left, f"left running: {left}"
    return process.wait()


def _connection(folder: Path, process: subprocess.Popen[bytes]) -> home.Connection:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    path = folder / "connection.json"
    while not path.is_file():
        told = (folder / "logs" / "up.log").read_text()
        assert process.poll() is None, f"darkroom up ended with {process.returncode}: {told}"
        assert time.monotonic() < deadline_s, f"darkroom up does not serve: {told}"
        time.sleep(POLL_S)
    return home.Connection(**json.loads(path.read_text()))


def _runs(process: psutil.Process, room: str) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.cmdline()[-2:] == ["serve", room]
    return False


def _belongs(process: psutil.Process, folder: Path) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE and process.environ().get("DARKROOM_HOME") == str(folder)
    return False
