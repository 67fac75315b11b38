import datetime
import decimal

import pytest

from darkroom import errors, pricing
from darkroom.api.types.v1 import media_pb2
from darkroom.billing_meter.store import charges
from tests.billing_meter.harness import MODEL, Meter


async def test_a_charge_reads_back_as_it_was_recorded(meter: Meter) -> None:
    tenant_id = await meter.tenant()
    outcome = await meter.outcome(tenant_id, usage={"cached_steps": 17}, quality=media_pb2.QUALITY_TIER_DRAFT)
    (told,) = await meter.record(outcome)
    assert (told.charge.quality, told.charge.usage.cached_steps) == (media_pb2.QUALITY_TIER_DRAFT, 17)
    charge = await charges.get(meter.database, tenant_id=tenant_id, generation_id=outcome.generation_id)
    assert (charge.generation_id, charge.model, charge.free_reason) == (outcome.generation_id, MODEL, "")
    assert charge.usage == pricing.Quantities(gpu_time_us=1_500_000, steps=28, images=1, pixels=4096, cached_steps=17)
    assert charge.quality == "DRAFT"
    assert charge.lines[1] == ("megapixel", decimal.Decimal("0.004096"), 2_000_000, 8192)
    assert charge.amount == (750_108_192, "USD")
    assert charge.tags == {"project": "tests"}
    assert charge.price_version_id == outcome.price_version_id
    assert charge.posted_at.tzinfo == datetime.UTC


async def test_another_tenants_charge_is_not_found_as_a_missing_one(meter: Meter) -> None:
    outcome = await meter.outcome(await meter.tenant())
    other = await meter.tenant()
    with pytest.raises(errors.NotFound) as missing:
        await charges.get(meter.database, tenant_id=other, generation_id=outcome.generation_id)
    await meter.record(outcome)
    with pytest.raises(errors.NotFound) as foreign:
        await charges.get(meter.database, tenant_id=other, generation_id=outcome.generation_id)
    assert str(foreign.value) == str(missing.value)


async def test_by_generations_leaves_unrecorded_ones_out(meter: Meter) -> None:
    tenant_id = await meter.tenant()
    charged, free = await meter.outcome(tenant_id), await meter.outcome(tenant_id, free_reason="FAILED")
    await meter.record(charged, free)
    stored = await charges.by_generations(
        meter.database, [charged.generation_id, free.generation_id, "gen_" + "0" * 32]
    )
    assert set(stored) == {charged.generation_id, free.generation_id}
    assert stored[free.generation_id].charge.free_reason == "FAILED"
