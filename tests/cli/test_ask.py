import dataclasses
import json
from pathlib import Path

import click
import pytest

from darkroom import client
from darkroom.cli import ask, home
from tests import platforms
from tests.cli.conftest import command


async def tenants(darkroom: client.AsyncClient) -> int:
    return len(await darkroom.tenants())


async def balance(darkroom: client.AsyncClient) -> str:
    return (await darkroom.balance()).balance.currency


@pytest.fixture
def connection(platform: platforms.Platform, monkeypatch: pytest.MonkeyPatch) -> home.Connection:
    monkeypatch.setenv("DARKROOM_HOME", str(platform.folder))
    return platform.connection


def test_a_tenant_asks_with_its_key_and_an_operator_with_another(connection: home.Connection) -> None:
    assert ask.tenant(balance) == "USD"
    assert ask.operator(tenants) >= 1


def test_an_operator_without_a_key_of_its_own_uses_the_only_one(
    connection: home.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = dataclasses.replace(connection, api_key=connection.operator_key, operator_key="")
    monkeypatch.setattr(home, "read_connection", lambda: only)
    assert ask.operator(tenants) >= 1


def test_without_a_key_the_sentence_names_the_variable(
    connection: home.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyless = dataclasses.replace(connection, api_key="", operator_key="")
    monkeypatch.setattr(home, "read_connection", lambda: keyless)
    with pytest.raises(click.ClickException, match="set DARKROOM_API_KEY"):
        ask.tenant(balance)
    with pytest.raises(click.ClickException, match="set DARKROOM_OPERATOR_KEY"):
        ask.operator(tenants)


def test_a_platform_that_is_gone_is_told_as_such(free_port: int, tmp_path: Path) -> None:
    gone = dict.fromkeys(home.ADDRESSES, f"127.0.0.1:{free_port}") | {"api_key": "dk_of_yesterday"}
    (tmp_path / "connection.json").write_text(json.dumps(gone))
    said = command(tmp_path)("list")
    assert said.code == 1
    assert said.err.count("\n") == 1
    assert "`darkroom up` starts it" in said.err
