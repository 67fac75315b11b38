import asyncio

import pytest

from darkroom import errors
from darkroom.billing_meter import api_key, domain
from darkroom.billing_meter.store import keys
from tests.billing_meter.harness import Meter


async def make(meter: Meter, tenant_id: str, name: str = "main") -> tuple[domain.Key, str]:
    minted = api_key.mint()
    key = await keys.create(meter.database, minted, tenant_id=tenant_id, name=name, scopes={"billing.read", "a"})
    return key, minted.text


async def test_a_key_is_its_tenants(meter: Meter) -> None:
    tenant_id = await meter.tenant()
    key, text = await make(meter, tenant_id)
    principal = await keys.verify(meter.database, text)
    assert (principal.tenant_id, principal.key_id) == (tenant_id, key.key_id)
    assert principal.scopes == {"billing.read", "a"}
    assert key.scopes == ("a", "billing.read")


async def test_the_database_does_not_hold_the_secret(meter: Meter) -> None:
    _, text = await make(meter, await meter.tenant())
    secret = text.rpartition("_")[2]
    row = await meter.database.fetchrow("SELECT * FROM api_key WHERE prefix = $1", text[:15])
    assert row is not None
    assert secret not in str(row)
    assert bytes.fromhex(secret) not in row.values()


async def test_other_texts_are_unknown(meter: Meter) -> None:
    _, text = await make(meter, await meter.tenant())
    wrong_secret = text[:16] + api_key.mint().text[16:]
    for other in (wrong_secret, api_key.mint().text, text + "0", text.upper(), text[:15], "", "é", "dk_' OR 1=1 --"):
        with pytest.raises(errors.Unauthenticated):
            await keys.verify(meter.database, other)


async def test_a_revoked_key_ends_once(meter: Meter) -> None:
    key, text = await make(meter, await meter.tenant())
    revoked = await keys.revoke(meter.database, key.key_id)
    assert revoked.revoked_at is not None
    assert await keys.revoke(meter.database, key.key_id) == revoked
    with pytest.raises(errors.Unauthenticated):
        await keys.verify(meter.database, text)
    with pytest.raises(errors.NotFound):
        await keys.revoke(meter.database, "key_" + "0" * 32)


async def test_an_expired_key_ends_by_itself(meter: Meter) -> None:
    key, text = await make(meter, await meter.tenant())
    await keys.verify(meter.database, text)
    await meter.database.execute("UPDATE api_key SET expires_at = now() WHERE key_id = $1", key.key_id)
    with pytest.raises(errors.Unauthenticated):
        await keys.verify(meter.database, text)


async def test_two_live_keys_of_one_name_even_at_once(meter: Meter) -> None:
    tenant_id = await meter.tenant()
    results = await asyncio.gather(*(make(meter, tenant_id) for _ in range(10)), return_exceptions=True)
    made = [result for result in results if isinstance(result, tuple)]
    assert len(made) == 2
    assert {type(result) for result in results} == {tuple, errors.FailedPrecondition}
    await make(meter, tenant_id, name="other")
    await keys.revoke(meter.database, made[0][0].key_id)
    await make(meter, tenant_id)
    await meter.database.execute("UPDATE api_key SET expires_at = now() WHERE key_id = $1", made[1][0].key_id)
    await make(meter, tenant_id)


async def test_keys_need_a_tenant(meter: Meter) -> None:
    with pytest.raises(errors.NotFound):
        await make(meter, "ten_" + "f" * 32)


async def test_pages_are_newest_first_and_the_tenants_own(meter: Meter) -> None:
    tenant_id, other = await meter.tenant(), await meter.tenant()
    made = [(await make(meter, tenant_id, name=f"k{n}"))[0] for n in range(3)]
    await make(meter, other)
    newest = sorted(made, key=lambda key: key.key_id, reverse=True)
    assert await keys.page(meter.database, tenant_id=tenant_id, before="", limit=2) == newest[:2]
    assert await keys.page(meter.database, tenant_id=tenant_id, before=newest[1].key_id, limit=2) == newest[2:]
