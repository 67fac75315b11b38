import asyncio

import pytest
import tenacity

from darkroom import errors
from tests import platforms
from tests.cli.conftest import Darkroom, command


def test_a_key_is_told_once_listed_without_its_secret_and_revoked(
    darkroom: Darkroom, platform: platforms.Platform, tenant_id: str
) -> None:
    said = darkroom("keys", "create", tenant_id, "--name", "laptop", "--scope", "models.read")
    api_key = said.out.strip()
    assert "it is not shown again" in said.err
    listed = darkroom("keys", "list", tenant_id).out
    (line,) = [line.split() for line in listed.splitlines() if " laptop " in line]
    assert line[-2:] == ["live", "models.read"]
    assert api_key.startswith(line[2])
    assert api_key not in listed

    laptop = command(platform.folder, api_key=api_key)
    assert laptop("models", "list").code == 0
    assert laptop("list").err == "darkroom: this call needs the scope 'generations.read'\n"

    assert "revoked 0s ago" in darkroom("keys", "revoke", line[0]).out
    for attempt in tenacity.Retrying(  # other rooms may remember it for 5 s
        retry=tenacity.retry_if_exception_type(AssertionError),
        wait=tenacity.wait_fixed(0.3),
        stop=tenacity.stop_after_delay(30),
    ):
        with attempt:
            refused = laptop("models", "list")
            assert refused.code == 1
    assert "set DARKROOM_API_KEY to a live key" in refused.err


def test_json(darkroom: Darkroom, tenant_id: str, platform: platforms.Platform) -> None:
    made = darkroom("keys", "create", tenant_id, "--name", "script", "--json").json
    key_id = made["key"]["key_id"]
    assert key_id in [key["key_id"] for key in darkroom("keys", "list", tenant_id, "--json").json["keys"]]
    assert "revoked_at" in darkroom("keys", "revoke", key_id, "--json").json

    async def ask() -> None:
        async with platform.tenant(made["api_key"]) as tenant:
            await tenant.balance()

    with pytest.raises(errors.Unauthenticated):  # billing_meter itself remembers nothing
        asyncio.run(ask())


def test_a_tenant_that_is_none(darkroom: Darkroom) -> None:
    said = darkroom("keys", "create", "ten_" + "f" * 32)
    assert said.code == 1
    assert "`darkroom tenants list` names them" in said.err
