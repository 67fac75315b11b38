import asyncio

import pytest

from darkroom import errors, ids
from darkroom.billing_meter.store import leases, tenants
from tests.billing_meter.harness import USD, Meter


async def grant(meter: Meter, tenant_id: str, wanted: int, least: int = 1, grant_id: str = "") -> int:
    return await leases.grant(
        meter.database,
        tenant_id=tenant_id,
        grant_id=grant_id or ids.new("lea"),
        currency="USD",
        wanted_nanos=wanted,
        least_nanos=least,
    )


async def release(meter: Meter, tenant_id: str, nanos: int, release_id: str = "") -> None:
    await leases.release(
        meter.database, tenant_id=tenant_id, release_id=release_id or ids.new("lea"), currency="USD", nanos=nanos
    )


async def balance(meter: Meter, tenant_id: str) -> tuple[int, int, int]:
    return (await tenants.get(meter.database, tenant_id)).balance


async def test_a_grant_moves_available_money_to_held(meter: Meter) -> None:
    tenant_id = await meter.tenant(10 * USD)
    assert await grant(meter, tenant_id, 4 * USD) == 4 * USD
    assert await balance(meter, tenant_id) == (6 * USD, 4 * USD, 0)


async def test_less_than_wanted_is_granted_down_to_the_least(meter: Meter) -> None:
    tenant_id = await meter.tenant(3 * USD)
    assert await grant(meter, tenant_id, 4 * USD, 3 * USD) == 3 * USD
    with pytest.raises(errors.FailedPrecondition) as refusal:
        await grant(meter, tenant_id, 4 * USD)
    assert refusal.value.reason == "INSUFFICIENT_FUNDS"
    assert await balance(meter, tenant_id) == (0, 3 * USD, 0)


async def test_a_refused_grant_may_be_asked_for_again_under_its_id(meter: Meter) -> None:
    tenant_id, grant_id = await meter.tenant(0), ids.new("lea")
    with pytest.raises(errors.FailedPrecondition):
        await grant(meter, tenant_id, USD, grant_id=grant_id)
    await tenants.add_credit(meter.database, tenant_id=tenant_id, currency="USD", nanos=USD, idempotency_key="k")
    assert await grant(meter, tenant_id, USD, grant_id=grant_id) == USD


async def test_the_same_grant_is_made_once_even_at_once(meter: Meter) -> None:
    tenant_id, grant_id = await meter.tenant(10 * USD), ids.new("lea")
    granted = await asyncio.gather(*(grant(meter, tenant_id, 3 * USD, grant_id=grant_id) for _ in range(20)))
    assert set(granted) == {3 * USD}
    assert await balance(meter, tenant_id) == (7 * USD, 3 * USD, 0)


async def test_concurrent_grants_never_exceed_the_balance(meter: Meter) -> None:
    tenant_id = await meter.tenant(10 * USD + USD // 2)
    granted = await asyncio.gather(*(grant(meter, tenant_id, USD, USD // 4) for _ in range(50)), return_exceptions=True)
    amounts = [each for each in granted if isinstance(each, int)]
    assert sorted(amounts) == [USD // 2, *[USD] * 10]
    assert all(isinstance(each, errors.FailedPrecondition) for each in granted if not isinstance(each, int))
    assert await balance(meter, tenant_id) == (0, 10 * USD + USD // 2, 0)
    assert await meter.violations() == {}


@pytest.mark.parametrize(("wanted", "least"), [(3, 1), (2, 2)])
async def test_the_same_grant_id_with_other_parameters_is_refused(meter: Meter, wanted: int, least: int) -> None:
    tenant_id, grant_id = await meter.tenant(), ids.new("lea")
    await grant(meter, tenant_id, 2, 1, grant_id)
    with pytest.raises(errors.AlreadyExists):
        await grant(meter, tenant_id, wanted, least, grant_id)
    with pytest.raises(errors.AlreadyExists):
        await grant(meter, await meter.tenant(), 2, 1, grant_id)


async def test_a_release_gives_held_money_back_once(meter: Meter) -> None:
    tenant_id, release_id = await meter.tenant(10 * USD), ids.new("lea")
    await grant(meter, tenant_id, 4 * USD)
    await asyncio.gather(*(release(meter, tenant_id, USD, release_id) for _ in range(20)))
    assert await balance(meter, tenant_id) == (7 * USD, 3 * USD, 0)
    with pytest.raises(errors.AlreadyExists):
        await release(meter, tenant_id, 2 * USD, release_id)
    assert await meter.violations() == {}


async def test_no_more_is_released_than_is_held(meter: Meter) -> None:
    tenant_id = await meter.tenant(10 * USD)
    await grant(meter, tenant_id, 4 * USD)
    with pytest.raises(errors.FailedPrecondition) as refusal:
        await release(meter, tenant_id, 4 * USD + 1)
    assert refusal.value.reason == "RELEASE_EXCEEDS_HELD"
    assert await balance(meter, tenant_id) == (6 * USD, 4 * USD, 0)


async def test_unknown_tenants_have_no_leases(meter: Meter) -> None:
    with pytest.raises(errors.NotFound):
        await grant(meter, "ten_" + "f" * 32, 1)
    with pytest.raises(errors.NotFound):
        await release(meter, "ten_" + "f" * 32, 1)
