"""The whole platform on this machine: PostgreSQL, the rooms, the runners, each its own process, as in a cluster.

DARKROOM_HOME comes in; a `Connection` to a serving platform goes out, and while the block lasts a process that dies is started
again. At its end everything is stopped in the order that loses nothing: runners, scheduler, stores, meter, PostgreSQL.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import click

from darkroom import embedded_postgres
from darkroom.cli import bootstrap, home, process
from darkroom.model_runner import nvml

POSTGRES_POLL_S = 1.0
SHUTDOWN_GRACE_S = "2"  # each room's: who presses Ctrl-C waits for all of them; a cluster gives 10
CONTROL_ROOMS = ("billing_meter", "lora_store", "media_store", "scheduler")


@contextlib.asynccontextmanager
async def running(*, runners: int, say: Callable[[str], None]) -> AsyncIterator[home.Connection]:
    """Start the platform, yield how to reach it, and stop it; `say` is told of each stage and each restart."""
    folder = home.directory()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _stop_on_sigterm()
    database = embedded_postgres.EmbeddedPostgres(folder / "postgres")
    say("starting PostgreSQL")
    try:
        await asyncio.to_thread(database.start)
        await asyncio.to_thread(database.create_database, "darkroom")
        kept = home.read_secrets()
        addresses = {f"{room}_address": f"127.0.0.1:{_free_port()}" for room in CONTROL_ROOMS}
        environment = _environment(kept, addresses, database.url("darkroom"), folder)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(_kept(database, say))
            plan = _plan(environment, addresses, runners)
            say(f"starting {', '.join(room.name for room in plan)}")
            await _start(stack, plan, folder / "logs", say)
            connection = home.Connection(**addresses, operator_key=kept.operator_key, api_key=kept.tenant_key)
            connection = await bootstrap.ensure_tenant(connection, kept)
            home.write_connection(connection)
            yield connection
            say("stopping")
    finally:
        home.connection_path().unlink(missing_ok=True)
        await asyncio.to_thread(database.stop)


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end of `work`; click.Abort if SIGTERM came before it."""
    try:
        asyncio.run(work)
    except asyncio.CancelledError:
        raise click.Abort from None


async def interrupted() -> None:
    """Wait for Ctrl-C or SIGTERM, which are then no error."""
    event = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, event.set)
    await event.wait()


def _stop_on_sigterm() -> None:
    """Make SIGTERM unwind as Ctrl-C does: a platform that is ended while it starts leaves nothing behind either."""
    running = asyncio.current_task()
    assert running is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)


@contextlib.asynccontextmanager
async def _kept(database: embedded_postgres.EmbeddedPostgres, say: Callable[[str], None]) -> AsyncIterator[None]:
    """Start PostgreSQL again whenever it dies while the block lasts."""

    async def watch() -> None:
        while True:
            await asyncio.sleep(POSTGRES_POLL_S)
            try:
                if await asyncio.to_thread(database.revive):
                    say("PostgreSQL had ended: started it again")
            except embedded_postgres.EmbeddedPostgresError as error:  # what is left of the dead one may still hold on
                say(f"PostgreSQL ended, and does not start yet: {error}")

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _start(
    stack: contextlib.AsyncExitStack, plan: list[process.Room], logs: Path, say: Callable[[str], None]
) -> None:
    # Entered in this order, left in the reverse one: the runners stop first, the meter last. They get ready side by side.
    started = [await stack.enter_async_context(process.supervised(room, logs, say=say)) for room in plan]
    await asyncio.gather(*(room.ready() for room in started))


def _plan(environment: dict[str, str], addresses: dict[str, str], runners: int) -> list[process.Room]:
    """Every process of the platform; one runner per GPU, or `runners` on the CPU."""
    accelerators = nvml.device_count()
    control = [
        process.Room(room, room, environment | {"DARKROOM_LISTEN_ADDRESS": addresses[f"{room}_address"]})
        for room in CONTROL_ROOMS
    ]
    return control + [
        process.Room(f"model_runner-{index}", "model_runner", environment | _device(index, accelerators))
        for index in range(accelerators or runners)
    ]


def _environment(kept: home.Secrets, addresses: dict[str, str], database_url: str, folder: Path) -> dict[str, str]:
    variables = {f"DARKROOM_{name.upper()}": value for name, value in addresses.items()}
    return {
        "DARKROOM_SHUTDOWN_GRACE_S": SHUTDOWN_GRACE_S,
        **os.environ,
        **variables,
        "DARKROOM_LISTEN_ADDRESS": "127.0.0.1:0",
        "DARKROOM_DATABASE_URL": database_url,
        "DARKROOM_SERVICE_SECRET": kept.service_secret,
        "DARKROOM_OPERATOR_KEY": kept.operator_key,
        "DARKROOM_BLOB_URL": (folder / "blobs").as_uri(),
        "DARKROOM_CACHE_DIR": str(folder / "cache"),
        "DARKROOM_PARENT_PID": str(os.getpid()),
    }


def _device(index: int, accelerators: int) -> dict[str, str]:
    return {"DARKROOM_DEVICE": f"nvml:{index}"} if accelerators else {}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
