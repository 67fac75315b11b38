"""One question to the platform, for the words of the command.

A coroutine over `AsyncClient` comes in, its answer goes out; the connection and the key come from `home`.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import click

from darkroom import client
from darkroom.cli import home

Answer = TypeVar("Answer")


def tenant(work: Callable[[client.AsyncClient], Coroutine[Any, Any, Answer]]) -> Answer:
    """Ask with the tenant's key."""
    connection = home.read_connection()
    return _ask(connection, connection.api_key, "DARKROOM_API_KEY", work)


def operator(work: Callable[[client.AsyncClient], Coroutine[Any, Any, Answer]]) -> Answer:
    """Ask with the operator's key; where there is none, with the tenant's, which may have the scope."""
    connection = home.read_connection()
    return _ask(connection, connection.operator_key or connection.api_key, "DARKROOM_OPERATOR_KEY", work)


def _ask(
    connection: home.Connection,
    api_key: str,
    variable: str,
    work: Callable[[client.AsyncClient], Coroutine[Any, Any, Answer]],
) -> Answer:
    if not api_key:
        raise click.ClickException(f"no key is known: set {variable}, or run `darkroom up` here and use its own")

    async def run() -> Answer:
        async with client.AsyncClient(connection, api_key=api_key) as darkroom:
            return await work(darkroom)

    return asyncio.run(run())
