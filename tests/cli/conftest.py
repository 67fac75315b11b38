"""The command, run in this process against the platform of the test session."""

import contextlib
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from google.protobuf import json_format

from darkroom import client
from darkroom.api.scheduler.v1 import generation_pb2
from darkroom.cli import app
from tests import platforms

WITHIN_S = 60.0  # no passing test comes near
QUICK = ("--steps", "2", "--guidance", "1")
VARIABLES = ("DARKROOM_HOME", "DARKROOM_API_KEY", "DARKROOM_OPERATOR_KEY", "COLUMNS")


class Said(NamedTuple):
    """What a run of the command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its one JSON object, after a run that succeeded."""
        assert self.code == 0, self.err
        return json.loads(self.out)


Darkroom = Callable[..., Said]


def command(folder: Path, *, api_key: str = "") -> Darkroom:
    """`darkroom` with this home, and with this key if one is given."""

    def run(*words: str) -> Said:
        before = {name: os.environ.pop(name, None) for name in VARIABLES}
        os.environ |= {"DARKROOM_HOME": str(folder)} | ({"DARKROOM_API_KEY": api_key} if api_key else {})
        try:
            with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
                code = app.run(list(words))
        finally:
            for name in VARIABLES:
                os.environ.pop(name, None)
            os.environ |= {name: value for name, value in before.items() if value is not None}
        return Said(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def darkroom(platform: platforms.Platform) -> Darkroom:
    """The command of the platform's first tenant and its operator, once the scheduler counts on its runner."""
    darkroom = command(platform.folder)
    until_s = time.monotonic() + WITHIN_S
    while not darkroom("models", "show", "pocket-image", "--json").json.get("runners"):
        assert time.monotonic() < until_s
        time.sleep(0.1)
    return darkroom


@pytest.fixture(scope="session")
def newcomer(platform: platforms.Platform, darkroom: Darkroom) -> Darkroom:
    """The command of a tenant whose bill is its own, with 100 USD."""
    tenant = darkroom("tenants", "create", "newcomer", "--credit", "100", "--json").json
    made = darkroom("keys", "create", tenant["tenant_id"], "--json").json
    return command(platform.folder, api_key=made["api_key"])


@pytest.fixture(scope="session")
def picture(darkroom: Darkroom, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A generation that the first tenant made, as `generate --json` printed it."""
    out = tmp_path_factory.mktemp("pictures")
    words = ("generate", "pocket-image", "--prompt", "a red circle on a white background", "--seed", "7", *QUICK)
    return darkroom(*words, "--out", str(out), "--json").json


@pytest.fixture(scope="session")
def made(picture: dict[str, Any]) -> generation_pb2.Generation:
    """The same generation, as a message."""
    return json_format.ParseDict(picture["generation"], generation_pb2.Generation())


@pytest.fixture
def long(platform: platforms.Platform) -> Iterator[generation_pb2.Generation]:
    """A generation of the first tenant that is not at its end before somebody cancels it."""
    request = client.image("pocket-image", "a blue square on a white background")
    request.image.steps, request.image.num_images = 100, 4
    with client.Client(platform.connection, api_key=platform.connection.api_key) as tenant:
        generation = tenant.create(request)
        yield generation
        tenant.cancel(generation.generation_id)
        tenant.call(lambda it: _end(it, generation.generation_id))


@pytest.fixture(scope="session")
def tenant_id(darkroom: Darkroom) -> str:
    """The platform's first tenant."""
    tenants = darkroom("tenants", "list", "--json").json["tenants"]
    return next(tenant["tenant_id"] for tenant in tenants if tenant["name"] == "local")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test run in an empty folder, where files may fall."""
    monkeypatch.chdir(tmp_path)


async def _end(tenant: client.AsyncClient, generation_id: str) -> None:
    async for _ in tenant.watch(generation_id):
        pass
