"""`darkroom serve ROOM`: one room as one process, as a container runs it.

The environment comes in as the room's Config; the room runs until SIGTERM. On stdout one line, "ready host:port", says that it
serves: `platform` waits for it.
"""

import asyncio
import ctypes
import gc
import importlib
import os
import signal

import click

ROOMS = ("scheduler", "model_runner", "lora_store", "media_store", "billing_meter")
_PR_SET_PDEATHSIG = 1
_M_ARENA_MAX = -8  # of glibc's malloc.h
_ARENAS_MAX = 2
"""Heaps that malloc keeps; by default 8 for each core, among which what gRPC's threads free is lost to the others: the scheduler
grew by 7 % in half an hour of work that left no object behind."""


@click.command()
@click.argument("room", type=click.Choice(ROOMS))
def serve(room: str) -> None:
    """Run one room until SIGTERM; settings come from DARKROOM_* variables."""
    from darkroom import settings, telemetry

    _die_with_parent()
    _share_heaps()
    config_class = importlib.import_module(f"darkroom.{room}.config").Config
    config = settings.load(config_class)
    handle = telemetry.setup(room, config)
    server = importlib.import_module(f"darkroom.{room}.server")
    try:
        asyncio.run(server.serve(config, ready=_say_ready))
    finally:
        handle.shutdown()
        gc.freeze()  # all is closed: Python's last collection of torch's objects took 10 s on a busy machine


def _say_ready(address: str) -> None:
    click.echo(f"ready {address}")


def _share_heaps() -> None:
    """Let all threads use the same few heaps, where the C library is one that can."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_M_ARENA_MAX, _ARENAS_MAX)


def _die_with_parent() -> None:
    """Under `darkroom up`, end when it ends, however it ends: no room outlives its platform."""
    parent = os.environ.get("DARKROOM_PARENT_PID")
    if not parent:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):  # it died before the line above
        raise SystemExit(1)
