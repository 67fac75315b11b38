import asyncio
import datetime

import asyncpg
import pytest

from darkroom import errors, ids, pricing
from darkroom.billing_meter import domain
from darkroom.billing_meter.store import prices
from tests.billing_meter.harness import MODEL, RATES, Meter

MICROSECOND = datetime.timedelta(microseconds=1)
DEARER = pricing.Rates(
    nanos_per_image=1, nanos_per_megapixel=2, nanos_per_gpu_second=3, nanos_per_media_second=4, minimum_nanos=5
)
LATER = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)


async def set_price(
    meter: Meter, *, at: datetime.datetime | None, rates: pricing.Rates = DEARER, key: str = ""
) -> domain.PriceVersion:
    return await prices.set_price(
        meter.database, model=MODEL, rates=rates, effective_from=at, idempotency_key=key or ids.new("req")
    )


async def test_a_version_is_in_force_from_its_instant_on(meter: Meter) -> None:
    version = await set_price(meter, at=LATER)
    (before,) = await prices.in_force(meter.database, at=LATER - MICROSECOND)
    assert before.rates == RATES
    assert await prices.in_force(meter.database, at=LATER) == [version]
    assert await prices.in_force(meter.database, at=LATER + MICROSECOND) == [version]
    assert await prices.in_force(meter.database) == [before]


async def test_a_version_in_between_ends_where_the_next_begins(meter: Meter) -> None:
    last = await set_price(meter, at=LATER)
    middle = await set_price(meter, at=LATER - MICROSECOND, rates=pricing.Rates())
    assert await prices.in_force(meter.database, at=LATER - MICROSECOND) == [middle]
    assert await prices.in_force(meter.database, at=LATER) == [last]


async def test_a_price_set_for_now_is_in_force_at_once(meter: Meter) -> None:
    version = await set_price(meter, at=None)
    assert await prices.in_force(meter.database) == [version]


async def test_every_rate_is_kept(meter: Meter) -> None:
    version = await set_price(meter, at=None)
    assert version.rates == DEARER
    assert await prices.by_ids(meter.database, [version.price_version_id]) == {version.price_version_id: version}


async def test_nothing_was_in_force_before_the_first_version(meter: Meter) -> None:
    (first,) = await prices.in_force(meter.database)
    assert await prices.in_force(meter.database, at=first.effective_from - MICROSECOND) == []


async def test_versions_do_not_begin_together(meter: Meter) -> None:
    await set_price(meter, at=LATER)
    with pytest.raises(errors.FailedPrecondition) as refusal:
        await set_price(meter, at=LATER, rates=pricing.Rates())
    assert refusal.value.reason == "PRICE_RANGE_TAKEN"


async def test_no_version_begins_in_the_past(meter: Meter) -> None:
    with pytest.raises(errors.InvalidArgument, match="effective_from"):
        await set_price(meter, at=datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))


async def test_a_model_without_a_price_is_unknown(meter: Meter) -> None:
    with pytest.raises(errors.NotFound):
        await prices.set_price(
            meter.database, model="no-such-model", rates=DEARER, effective_from=None, idempotency_key="k"
        )


async def test_the_same_key_makes_one_version(meter: Meter) -> None:
    made = await asyncio.gather(*(set_price(meter, at=None, key="k") for _ in range(10)))
    assert len({version.price_version_id for version in made}) == 1
    with pytest.raises(errors.AlreadyExists):
        await set_price(meter, at=None, rates=pricing.Rates(), key="k")


async def test_seeding_leaves_prices_that_exist(meter: Meter) -> None:
    before = await prices.in_force(meter.database)
    await prices.seed(meter.database, {MODEL: DEARER, "another": DEARER})
    after = await prices.in_force(meter.database)
    assert [version.model for version in after] == ["another", MODEL]
    assert after[1:] == before
    assert after[0].rates == DEARER


async def test_by_ids_leaves_unknown_ones_out(meter: Meter) -> None:
    (version,) = await prices.in_force(meter.database)
    found = await prices.by_ids(meter.database, [version.price_version_id, "pri_" + "0" * 32])
    assert found == {version.price_version_id: version}


async def test_a_rate_that_could_overflow_is_refused_by_the_table(meter: Meter) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await prices.seed(meter.database, {"dear": pricing.Rates(nanos_per_image=domain.RATE_NANOS_MAX + 1)})
