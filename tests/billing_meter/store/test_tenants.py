import asyncio

import pytest

from darkroom import errors
from darkroom.billing_meter.store import tenants
from tests.billing_meter.harness import USD, Meter


async def test_a_tenant_starts_with_its_credit(meter: Meter) -> None:
    tenant = await tenants.create(meter.database, name="Ünì", currency="EUR", credit_nanos=3 * USD, idempotency_key="k")
    assert (tenant.name, tenant.currency, tenant.balance) == ("Ünì", "EUR", (3 * USD, 0, 0))
    assert await tenants.get(meter.database, tenant.tenant_id) == tenant
    assert await meter.violations() == {}


async def test_the_same_key_makes_one_tenant_even_at_once(meter: Meter) -> None:
    made = await asyncio.gather(
        *(
            tenants.create(meter.database, name="a", currency="USD", credit_nanos=USD, idempotency_key="k")
            for _ in range(20)
        )
    )
    assert len({tenant.tenant_id for tenant in made}) == 1
    assert made[0].balance.available_nanos == USD


async def test_the_same_key_with_another_name_is_refused(meter: Meter) -> None:
    await tenants.create(meter.database, name="a", currency="USD", credit_nanos=0, idempotency_key="k")
    with pytest.raises(errors.AlreadyExists):
        await tenants.create(meter.database, name="b", currency="USD", credit_nanos=0, idempotency_key="k")


async def test_credit_is_added_once_for_each_key(meter: Meter) -> None:
    tenant_id = await meter.tenant(0)
    await asyncio.gather(
        *(
            tenants.add_credit(
                meter.database, tenant_id=tenant_id, currency="USD", nanos=USD, idempotency_key=f"k{n % 3}"
            )
            for n in range(30)
        )
    )
    assert (await tenants.get(meter.database, tenant_id)).balance == (3 * USD, 0, 0)
    assert await meter.violations() == {}


async def test_refused_credit_leaves_its_key_free(meter: Meter) -> None:
    tenant_id = await meter.tenant(0)
    for currency, refusal in (("EUR", errors.FailedPrecondition), ("GBP", errors.FailedPrecondition)):
        with pytest.raises(refusal):
            await tenants.add_credit(
                meter.database, tenant_id=tenant_id, currency=currency, nanos=1, idempotency_key="k"
            )
    with pytest.raises(errors.NotFound):
        await tenants.add_credit(
            meter.database, tenant_id="ten_" + "f" * 32, currency="USD", nanos=1, idempotency_key="k"
        )
    await tenants.add_credit(meter.database, tenant_id=tenant_id, currency="USD", nanos=1, idempotency_key="k")


async def test_pages_are_by_id(meter: Meter) -> None:
    made = sorted([await meter.tenant(0) for _ in range(3)])
    first = await tenants.page(meter.database, after=made[0], limit=1)
    assert [tenant.tenant_id for tenant in first] == [made[1]]
    rest = await tenants.page(meter.database, after=made[1], limit=10)
    assert [tenant.tenant_id for tenant in rest] == [made[2]]
