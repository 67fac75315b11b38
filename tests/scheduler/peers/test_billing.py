import pytest

from darkroom import errors, ids, tokens
from darkroom.scheduler.domain import spending
from darkroom.scheduler.peers import billing
from tests.scheduler.conftest import MODEL, Room


@pytest.fixture
async def meter(idle_room: Room) -> billing.Billing:
    idle_room.billing_address = await idle_room.start_billing()
    credential = tokens.ServiceCredential(idle_room.service_secret, "scheduler")
    return billing.Billing(idle_room.channel(idle_room.billing_address, credential))


async def test_prices_are_asked_for_again_when_they_are_old(idle_room: Room, meter: billing.Billing) -> None:
    cached, fresh = billing.Prices(meter, cache_s=60.0), billing.Prices(meter, cache_s=0.0)
    before = await cached.of(MODEL)
    assert before.rates.nanos_per_image == 1_000_000
    await idle_room.set_price(model=MODEL, nanos_per_image=7, nanos_per_media_second=3)
    assert await cached.of(MODEL) == before
    after = await fresh.of(MODEL)
    assert (after.rates.nanos_per_image, after.rates.nanos_per_media_second) == (7, 3)
    assert after.price_version_id != before.price_version_id


async def test_the_last_prices_are_used_while_the_meter_is_away(idle_room: Room, meter: billing.Billing) -> None:
    prices, never = billing.Prices(meter, cache_s=0.0), billing.Prices(meter, cache_s=0.0)
    before = await prices.of(MODEL)
    await idle_room.stop_billing()
    assert await prices.of(MODEL) == before
    assert (await prices.known())[MODEL] == before
    assert await never.known() == {}
    with pytest.raises(errors.Unavailable):
        await never.of(MODEL)


async def test_a_model_without_a_price_is_refused(meter: billing.Billing) -> None:
    with pytest.raises(errors.FailedPrecondition) as refused:
        await billing.Prices(meter, cache_s=60.0).of("no-such-model")
    assert refused.value.reason == "PRICE_MISSING"


async def test_grants_and_releases(idle_room: Room, meter: billing.Billing) -> None:
    tenant = await idle_room.tenant(credit_nanos=100, address=idle_room.billing_address)
    grant = spending.Grant(ids.new("lea"), tenant.tenant_id, "USD", 150, 50)
    assert await meter.grant(grant) == 100
    assert await meter.grant(grant) == 100, "the same id is the same grant"
    with pytest.raises(errors.FailedPrecondition):
        await meter.grant(grant._replace(grant_id=ids.new("lea")))
