import asyncio

from darkroom import ids, pricing
from darkroom.api.billing_meter.v1 import billing_service_pb2, metering_service_pb2
from darkroom.api.types.v1 import money_pb2
from darkroom.billing_meter.store import prices, tenants
from tests.billing_meter.harness import MODEL, USD, Meter, usd

COST = 100_000 + 8192 + 750_000_000  # one image, 4096 pixels, 1.5 s


async def count(meter: Meter, table: str) -> int:
    return int(await meter.database.fetchval(f"SELECT count(*) FROM {table}"))


async def test_an_outcome_writes_everything_at_once(meter: Meter) -> None:
    tenant_id = await meter.tenant(10 * USD)
    await meter.grant(tenant_id, 2 * USD)
    (recorded,) = await meter.record(await meter.outcome(tenant_id))
    assert recorded.refusal == ""
    assert recorded.charge.amount == usd(COST)
    assert sum(line.amount_nanos for line in recorded.charge.lines) == COST
    assert (await tenants.get(meter.database, tenant_id)).balance == (8 * USD, 2 * USD - COST, 0)
    entries = await meter.database.fetch(
        "SELECT account, nanos FROM entry WHERE txn_id = $1", recorded.charge.transaction_id
    )
    assert {tuple(entry) for entry in entries} == {("HELD", -COST), ("REVENUE", COST)}
    assert await meter.violations() == {}


async def test_fifty_concurrent_records_of_one_outcome_make_one_charge(meter: Meter) -> None:
    tenant_id = await meter.tenant()
    await meter.grant(tenant_id, 2 * USD)
    outcome = await meter.outcome(tenant_id)
    answers = await asyncio.gather(*(meter.record(outcome) for _ in range(50)))
    assert len({recorded.SerializeToString(deterministic=True) for (recorded,) in answers}) == 1
    assert await count(meter, "charge") == await count(meter, "usage_event") == 1
    assert (await tenants.get(meter.database, tenant_id)).balance.total_nanos == 10 * USD - COST
    assert await meter.violations() == {}


async def test_concurrent_batches_that_overlap_charge_each_once(meter: Meter) -> None:
    owners = [await meter.tenant() for _ in range(3)]
    outcomes = [await meter.outcome(owners[n % 3]) for n in range(60)]
    batches = [outcomes[start : start + 40] for start in range(0, 40, 5)]
    for answer in await asyncio.gather(*(meter.record(*reversed(batch), *batch) for batch in batches)):
        assert {recorded.refusal for recorded in answer} == {""}
    assert await count(meter, "charge") == 60
    for owner in owners:
        assert (await tenants.get(meter.database, owner)).balance.total_nanos == 10 * USD - 20 * COST
    assert await meter.violations() == {}


async def test_another_payload_under_the_same_id_is_refused(meter: Meter) -> None:
    tenant_id = await meter.tenant()
    outcome = await meter.outcome(tenant_id)
    (first,) = await meter.record(outcome)
    others: list[dict[str, object]] = [
        {"amount": usd(COST - 1)},
        {"usage": money_pb2.Usage(images=2)},
        {"model": "other"},
        {"estimate": usd(9 * USD)},
        {"free_reason": "FAILED", "amount": usd(0)},
        {"tags": {"project": "other"}},
        {"price_version_id": "pri_" + "0" * 32},
    ]
    fields = {field.name: getattr(outcome, field.name) for field in outcome.DESCRIPTOR.fields}
    for changes in others:
        (refused,) = await meter.record(metering_service_pb2.Outcome(**{**fields, **changes}))
        assert (refused.refusal, refused.HasField("charge")) == ("PAYLOAD_CONFLICT", False), changes
    assert (await meter.record(outcome))[0] == first
    assert await count(meter, "usage_event") == 1


async def test_two_payloads_of_one_id_in_one_batch(meter: Meter) -> None:
    tenant_id = await meter.tenant()
    first = await meter.outcome(tenant_id)
    second = await meter.outcome(tenant_id, generation_id=first.generation_id, free_reason="FAILED")
    answers = await meter.record(first, second, first)
    assert [answer.refusal for answer in answers] == ["", "PAYLOAD_CONFLICT", ""]
    assert await meter.violations() == {}


async def test_another_tenants_generation_cannot_be_taken_over(meter: Meter) -> None:
    owner, thief = await meter.tenant(), await meter.tenant()
    outcome = await meter.outcome(owner)
    stolen = await meter.outcome(thief, generation_id=outcome.generation_id)
    await meter.record(outcome)
    (answer,) = await meter.record(stolen)
    assert answer == metering_service_pb2.RecordedOutcome(
        generation_id=outcome.generation_id, refusal="PAYLOAD_CONFLICT"
    )
    assert (await tenants.get(meter.database, thief)).balance == (10 * USD, 0, 0)


async def test_a_free_outcome_is_recorded_with_its_reason(meter: Meter) -> None:
    tenant_id = await meter.tenant()
    (recorded,) = await meter.record(await meter.outcome(tenant_id, free_reason="CANCELLED"))
    assert recorded.charge.free_reason == "CANCELLED"
    assert (recorded.charge.transaction_id, recorded.charge.amount) == ("", usd(0))
    assert recorded.charge.usage.steps == 28
    assert await count(meter, "charge") == 0
    assert await meter.violations() == {}


async def test_a_charge_never_exceeds_the_estimate(meter: Meter) -> None:
    tenant_id = await meter.tenant()
    (recorded,) = await meter.record(await meter.outcome(tenant_id, estimate=usd(1000)))
    assert recorded.charge.amount == usd(1000)
    assert recorded.charge.lines[-1].meter == "cap"
    assert sum(line.amount_nanos for line in recorded.charge.lines) == 1000
    assert await meter.violations() == {}


async def test_a_charge_of_nothing_is_posted_all_the_same(meter: Meter) -> None:
    tenant_id = await meter.tenant(0)
    (recorded,) = await meter.record(await meter.outcome(tenant_id, estimate=usd(0)))
    assert recorded.charge.transaction_id.startswith("txn_")
    assert recorded.charge.amount == usd(0)
    assert await meter.violations() == {}


async def test_capture_never_fails_for_funds(meter: Meter) -> None:
    tenant_id = await meter.tenant(COST + 7)
    await meter.grant(tenant_id, 3)
    await meter.record(await meter.outcome(tenant_id), await meter.outcome(tenant_id))
    assert (await tenants.get(meter.database, tenant_id)).balance == (0, 0, 7 - COST)
    assert await meter.violations() == {}
    await tenants.add_credit(meter.database, tenant_id=tenant_id, currency="USD", nanos=COST, idempotency_key="k")
    assert (await tenants.get(meter.database, tenant_id)).balance == (7, 0, 0)
    assert await meter.violations() == {}


async def test_one_refused_outcome_holds_up_no_other(meter: Meter) -> None:
    tenant_id = await meter.tenant()
    euro = money_pb2.Money(currency="EUR", nanos=5)
    answers = await meter.record(
        await meter.outcome(tenant_id, amount=usd(1)),
        await meter.outcome(tenant_id, price_version_id="pri_" + "0" * 32),
        await meter.outcome(tenant_id, model="other-model"),
        await meter.outcome(tenant_id, amount=euro),
        await meter.outcome("ten_" + "f" * 32),
        await meter.outcome(tenant_id),
    )
    assert [answer.refusal for answer in answers] == [
        *("AMOUNT_MISMATCH", "PRICE_NOT_FOUND", "PRICE_NOT_FOUND", "CURRENCY_MISMATCH", "TENANT_NOT_FOUND", ""),
    ]
    assert [answer.HasField("charge") for answer in answers] == [False] * 5 + [True]
    assert await meter.violations() == {}


async def test_a_tenant_pays_in_its_own_currency_alone(meter: Meter) -> None:
    tenant = await tenants.create(meter.database, name="e", currency="EUR", credit_nanos=USD, idempotency_key="k")
    (answer,) = await meter.record(await meter.outcome(tenant.tenant_id))
    assert answer.refusal == "CURRENCY_MISMATCH"
    assert await count(meter, "usage_event") == 0


async def test_a_generation_keeps_the_price_it_was_accepted_with(meter: Meter) -> None:
    tenant_id = await meter.tenant()
    accepted = await meter.outcome(tenant_id)
    dearer = await prices.set_price(
        meter.database,
        model=MODEL,
        rates=pricing.Rates(nanos_per_image=7),
        effective_from=None,
        idempotency_key=ids.new("req"),
    )
    assert await meter.price_version_id() == dearer.price_version_id
    old, new = await meter.record(accepted, await meter.outcome(tenant_id, amount=usd(7)))
    assert (old.charge.amount, new.charge.amount) == (usd(COST), usd(7))


async def test_a_batch_of_five_hundred(meter: Meter) -> None:
    tenant_id = await meter.tenant(1000 * USD)
    await meter.grant(tenant_id, 500 * USD)
    template = await meter.outcome(tenant_id)
    outcomes = []
    for _ in range(500):
        outcome = metering_service_pb2.Outcome()
        outcome.CopyFrom(template)
        outcome.generation_id = ids.new("gen")
        outcomes.append(outcome)
    answers = await meter.record(*outcomes)
    assert [answer.generation_id for answer in answers] == [outcome.generation_id for outcome in outcomes]
    assert (await tenants.get(meter.database, tenant_id)).balance == (500 * USD, 500 * (USD - COST), 0)
    assert await meter.violations() == {}


async def test_what_is_free_may_be_priced_in_another_currency(meter: Meter) -> None:
    tenant = await tenants.create(
        meter.database, name="a tenant", currency="EUR", credit_nanos=USD, idempotency_key="first"
    )
    dollars = await meter.price_version_id()
    price = billing_service_pb2.PriceVersion(model=MODEL, currency="EUR", nanos_per_image=5)
    await meter.operator_billing.SetPrice(
        billing_service_pb2.SetPriceRequest(price=price, idempotency_key=ids.new("req"))
    )
    euros = {name: money_pb2.Money(currency="EUR", nanos=5) for name in ("estimate", "amount")}
    answers = await meter.record(
        await meter.outcome(tenant.tenant_id, **euros),
        await meter.outcome(tenant.tenant_id, price_version_id=dollars, estimate=usd(0)),
        await meter.outcome(tenant.tenant_id, price_version_id=dollars, estimate=usd(0), free_reason="CANCELLED"),
        await meter.outcome(tenant.tenant_id, price_version_id=dollars),
    )
    assert [answer.refusal for answer in answers] == ["", "", "", "CURRENCY_MISMATCH"]
    assert (await tenants.get(meter.database, tenant.tenant_id)).balance == (USD - 5, 0, 0)
    assert await meter.violations() == {}
