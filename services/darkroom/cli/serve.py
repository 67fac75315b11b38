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
_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_BLOCK_BYTES_MIN = 32 * 1024
"""Larger blocks are given back to the system when they are freed. Else gRPC's read buffers of 64 KiB tear holes into the heap that
nothing fits: in 2 minutes the scheduler's grew from 16 to 39 MB though no object stayed; this way it stayed at 13."""


@click.command()
@click.argument("room", type=click.Choice(ROOMS))
def serve(room: str) -> None:
    """Run one room until SIGTERM; settings come from DARKROOM_* variables."""
    from darkroom import settings, telemetry

    _die_with_parent()
    if (
        room != "model_runner"
    ):  # on a CPU torch takes thousands of such blocks a second: `engine.host_memory` keeps them
        _give_blocks_back()
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


def _give_blocks_back() -> None:
    """Have malloc keep no large block that was freed, where the C library is one that can be told."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_M_MMAP_THRESHOLD, _BLOCK_BYTES_MIN)


def _die_with_parent() -> None:
    """Under `darkroom up`, end when it ends, however it ends: no room outlives its platform."""
    parent = os.environ.get("DARKROOM_PARENT_PID")
    if not parent:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):  # it died before the line above
        raise SystemExit(1)
