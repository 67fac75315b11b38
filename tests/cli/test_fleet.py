import dataclasses
import time

import pytest

from darkroom.api.scheduler.v1 import generation_pb2
from darkroom.cli import home
from tests import platforms
from tests.cli.conftest import WITHIN_S, Darkroom


def test_list_shows_each_runner_with_its_device_and_models(darkroom: Darkroom, made: generation_pb2.Generation) -> None:
    until_s = time.monotonic() + WITHIN_S
    said = darkroom("fleet", "list")
    while "pocket-image" not in said.out and time.monotonic() < until_s:  # a loaded model shows with the next heartbeat
        time.sleep(0.1)
        said = darkroom("fleet", "list")
    assert said.code == 0
    header, runner = said.out.splitlines()
    assert header.split() == ["runner", "state", "node", "device", "busy", "others", "memory", "aboard", "loaded"]
    assert runner.split()[:2] == [made.runner_id, "READY"]
    assert "pocket-image" in runner


def test_as_json(darkroom: Darkroom, made: generation_pb2.Generation) -> None:
    (runner,) = darkroom("fleet", "list", "--lost", "--json").json["runners"]
    assert runner["runner_id"] == made.runner_id


def test_a_tenant_may_not_look(
    darkroom: Darkroom, platform: platforms.Platform, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    api_key = darkroom("keys", "create", tenant_id, "--json").json["api_key"]
    connection = dataclasses.replace(platform.connection, operator_key=api_key)
    monkeypatch.setattr(home, "read_connection", lambda: connection)
    assert darkroom("fleet", "list") == (1, "", "darkroom: this call needs the scope 'operator'\n")
