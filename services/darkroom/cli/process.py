"""One room as a supervised child process.

A `Room` (its name and environment) comes in; a running process goes out, started again when it dies, with longer and longer pauses.
Its log goes to a file, its "ready" line to whoever waits in `ready()`. Ctrl-C in the terminal does not reach it: it is stopped when
the block ends, by SIGTERM, and by SIGKILL if it does not go.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple

import click

READY_TIMEOUT_S = 120.0  # torch alone takes 10 s to import on a busy small machine
STOP_TIMEOUT_S = 20.0
RESTART_PAUSE_S_MIN = 0.2
RESTART_PAUSE_S_MAX = 5.0
HEALTHY_AFTER_S = 30.0  # a process that lived this long starts again without a pause
LOG_TAIL_BYTES = 2_000


class Room(NamedTuple):
    """A process to run: `darkroom serve <room>` with this environment; `name` tells two of a kind apart."""

    name: str
    room: str
    environment: dict[str, str]


class Supervised:
    """A room that runs; `pid` is its present process."""

    def __init__(self, room: Room, log_path: Path, *, say: Callable[[str], None]) -> None:
        self.room = room
        self.pid = 0
        self._log_path = log_path
        self._log_begins_at = log_path.stat().st_size if log_path.exists() else 0  # what is before is another start's
        self._say = say
        self._ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def ready(self) -> str:
        """Wait until it serves; its address. ClickException, with the end of its log, if it does not."""
        try:
            return await asyncio.wait_for(asyncio.shield(self._ready), READY_TIMEOUT_S)
        except TimeoutError as error:
            raise self._failure("did not get ready") from error

    async def supervise(self) -> None:
        """Keep it running until cancelled."""
        pause_s = RESTART_PAUSE_S_MIN
        while True:
            started_s = time.monotonic()
            code = await self._live()
            if not self._ready.done():
                self._ready.set_exception(self._failure(f"ended with exit code {code} before it served"))
                return
            pause_s = (
                RESTART_PAUSE_S_MIN
                if time.monotonic() - started_s > HEALTHY_AFTER_S
                else min(pause_s * 2, RESTART_PAUSE_S_MAX)
            )
            self._say(f"{self.room.name} ended with exit code {code}: starting it again in {pause_s:.1f} s")
            await asyncio.sleep(pause_s)

    async def _live(self) -> int:
        with self._log_path.open("ab") as log:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "darkroom", "serve", self.room.room),
                env=self.room.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self.pid = child.pid
        try:
            assert child.stdout is not None
            async for line in child.stdout:
                if line.startswith(b"ready ") and not self._ready.done():
                    self._ready.set_result(line.split()[1].decode())
            return await child.wait()
        finally:
            await _stop(child)

    def _failure(self, what: str) -> click.ClickException:
        own = self._log_path.read_bytes()[self._log_begins_at :]
        tail = own[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
        return click.ClickException(f"{self.room.name} {what}; its log is {self._log_path}, which ends:\n{tail}")


@contextlib.asynccontextmanager
async def supervised(room: Room, log_folder: Path, *, say: Callable[[str], None]) -> AsyncIterator[Supervised]:
    """Run `room` while the block lasts."""
    log_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    running = Supervised(room, log_folder / f"{room.name}.log", say=say)
    task = asyncio.create_task(running.supervise())
    try:
        yield running
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _stop(child: asyncio.subprocess.Process) -> None:
    if child.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        child.terminate()
    try:
        await asyncio.wait_for(child.wait(), STOP_TIMEOUT_S)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
