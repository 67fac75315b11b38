"""Where a platform on this machine keeps itself: DARKROOM_HOME.

`up` writes the connection file there (mode 0600: it holds keys), every other word reads it. The folder holds PostgreSQL's data, the
blobs, the rooms' logs and the secrets; without DARKROOM_HOME it is ~/.local/state/darkroom.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import click

from darkroom import client

ADDRESSES = ("scheduler_address", "lora_store_address", "media_store_address", "billing_meter_address")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Connection(client.Endpoints):
    """How to reach a platform, and the keys to use: a tenant's, and on one's own machine the operator's."""

    api_key: str = dataclasses.field(default="", repr=False)
    operator_key: str = dataclasses.field(default="", repr=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Secrets:
    """What a platform on this machine must remember between starts."""

    service_secret: str = dataclasses.field(repr=False)
    operator_key: str = dataclasses.field(repr=False)
    tenant_key: str = dataclasses.field(default="", repr=False)


def directory() -> Path:
    """The home in use."""
    stated = os.environ.get("DARKROOM_HOME")
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(stated).resolve() if stated else Path(state) / "darkroom"


def connection_path() -> Path:
    """The connection file of the home in use."""
    return directory() / "connection.json"


def read_connection() -> Connection:
    """The platform to talk to: each field from its DARKROOM_ variable, else from the connection file."""
    path = connection_path()
    stated = json.loads(path.read_text()) if path.is_file() else {}
    for name in (field.name for field in dataclasses.fields(Connection)):
        stated[name] = os.environ.get(f"DARKROOM_{name.upper()}", stated.get(name, ""))
    missing = [name for name in ADDRESSES if not stated[name]]
    if missing:
        variables = ", ".join(f"DARKROOM_{name.upper()}" for name in missing)
        raise click.ClickException(f"no platform is known: run `darkroom up` here, or set {variables}")
    return Connection(**stated)


def write_connection(connection: Connection) -> Path:
    """Leave the connection file for other terminals, readable by this user alone."""
    write_private(connection_path(), json.dumps(dataclasses.asdict(connection), indent=2) + "\n")
    return connection_path()


def read_secrets() -> Secrets:
    """The home's secrets; made at the first call."""
    path = directory() / "secrets.json"
    if path.is_file():
        return Secrets(**json.loads(path.read_text()))
    made = Secrets(
        service_secret=secrets.token_hex(32),
        operator_key=f"dk_{secrets.token_hex(6)}_{secrets.token_hex(32)}",
    )
    write_secrets(made)
    return made


def write_secrets(kept: Secrets) -> None:
    """Keep the home's secrets, readable by this user alone."""
    write_private(directory() / "secrets.json", json.dumps(dataclasses.asdict(kept), indent=2) + "\n")


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600 as a whole: a reader sees the old text or the new, and nobody else sees any."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


@contextlib.contextmanager
def lock() -> Iterator[None]:
    """Keep this home for one platform at a time; the kernel lets go of it with the process."""
    directory().mkdir(parents=True, exist_ok=True, mode=0o700)
    with (directory() / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise click.ClickException(
                f"a platform already runs in {directory()}: use it, stop it, or set DARKROOM_HOME to another folder"
            ) from error
        yield
