from typing import Any

from google.protobuf import timestamp_pb2

from darkroom import errors, ids
from darkroom.api.billing_meter.v1 import metering_service_pb2 as pb
from darkroom.api.types.v1 import money_pb2
from darkroom.billing_meter import domain
from tests.billing_meter.harness import MODEL, RATES, USD, Meter, bad_fields, refused, usd

EURO = money_pb2.Money(currency="EUR", nanos=1)


async def test_bad_leases_name_their_fields(meter: Meter) -> None:
    tenant_id, lease_id = await meter.tenant(), ids.new("lea")
    good: dict[str, Any] = {"tenant_id": tenant_id, "grant_id": lease_id, "wanted": usd(2), "least": usd(1)}
    grants: list[tuple[dict[str, Any], set[str]]] = [
        ({"tenant_id": ""}, {"tenant_id"}),
        ({"grant_id": "gen_" + "0" * 32}, {"grant_id"}),
        ({"wanted": usd(0), "least": usd(0)}, {"wanted.nanos", "least.nanos"}),
        ({"wanted": usd(-5)}, {"wanted.nanos", "least.nanos"}),
        ({"least": usd(3)}, {"least.nanos"}),
        ({"least": EURO}, {"least.currency"}),
        ({"wanted": usd(domain.AMOUNT_NANOS_MAX + 1)}, {"wanted.nanos"}),
    ]
    for changes, fields in grants:
        assert await bad_fields(meter.metering.GrantLease(pb.GrantLeaseRequest(**{**good, **changes}))) == fields, (
            changes
        )
    release = {"tenant_id": tenant_id, "release_id": lease_id, "amount": usd(1)}
    for name, value in (("tenant_id", "x"), ("release_id", "x"), ("amount", usd(-1))):
        fields = await bad_fields(meter.metering.ReleaseLease(pb.ReleaseLeaseRequest(**{**release, name: value})))
        assert {field.partition(".")[0] for field in fields} == {name}


async def test_bad_outcomes_name_their_index_and_field_and_record_nothing(meter: Meter) -> None:
    tenant_id = await meter.tenant()
    good = await meter.outcome(tenant_id)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"generation_id": ""}, "generation_id"),
        ({"tenant_id": "ten_"}, "tenant_id"),
        ({"model": "\x00"}, "model"),
        ({"price_version_id": "1"}, "price_version_id"),
        ({"usage": money_pb2.Usage(gpu_time_us=-1)}, "usage.gpu_time_us"),
        ({"usage": money_pb2.Usage(pixels=2**62)}, "usage.pixels"),
        ({"estimate": money_pb2.Money(nanos=5)}, "estimate.currency"),
        ({"estimate": usd(-1)}, "estimate.nanos"),
        ({"amount": usd(-1)}, "amount.nanos"),
        ({"amount": usd(2**62)}, "amount.nanos"),
        ({"quality": 9}, "quality"),
        ({"free_reason": "A" * 65}, "free_reason"),
        ({"free_reason": "\x1b[0m"}, "free_reason"),
        ({"finished_at": timestamp_pb2.Timestamp(seconds=2**60)}, "finished_at"),
        ({"tags": {str(n): "" for n in range(17)}}, "tags"),
        ({"tags": {"": "x"}}, "tags"),
        ({"tags": {"a": "x" * 257}}, "tags"),
        ({"tags": {"a": "\x00"}}, "tags"),
    ]
    for changes, field in cases:
        bad = await meter.outcome(tenant_id, generation_id=ids.new("gen"))
        fields: dict[str, Any] = {each.name: getattr(bad, each.name) for each in bad.DESCRIPTOR.fields}
        bad = pb.Outcome(**{**fields, **changes})
        assert await bad_fields(meter.record(good, bad)) == {f"outcomes[1].{field}"}, changes
    bad.ClearField("finished_at")
    bad.ClearField("tags")
    assert await bad_fields(meter.record(bad)) == {"outcomes[0].finished_at"}
    assert await meter.database.fetchval("SELECT count(*) FROM usage_event") == 0


async def test_a_batch_has_bounds(meter: Meter) -> None:
    assert await bad_fields(meter.record()) == {"outcomes"}
    outcome = await meter.outcome(await meter.tenant())
    assert await bad_fields(meter.record(*[outcome] * 501)) == {"outcomes"}


async def test_prices_in_force_are_listed(meter: Meter) -> None:
    (price,) = (await meter.metering.ListPrices(pb.ListPricesRequest())).prices
    assert (price.model, price.nanos_per_gpu_second) == (MODEL, RATES.nanos_per_gpu_second)


async def test_a_lease_is_granted_and_given_back(meter: Meter) -> None:
    tenant_id = await meter.tenant(3 * USD)
    assert await meter.grant(tenant_id, 5 * USD, USD) == 3 * USD
    error = await refused(meter.grant(tenant_id, 1))
    assert (error.code, error.reason) == ("FAILED_PRECONDITION", "INSUFFICIENT_FUNDS")
    release_id = ids.new("lea")
    for _ in range(2):
        await meter.release(tenant_id, USD, release_id)
    assert await meter.grant(tenant_id, 5 * USD) == USD


async def test_other_rooms_alone_meter(meter: Meter) -> None:
    operator: Any = meter.stub_for_operator()
    assert isinstance(await refused(operator.ListPrices(pb.ListPricesRequest())), errors.PermissionDenied)


async def test_answers_are_in_the_order_asked(meter: Meter) -> None:
    owners = [await meter.tenant(), await meter.tenant()]
    outcomes = [await meter.outcome(owners[n % 2]) for n in range(6)]
    answers = await meter.record(*outcomes)
    assert [answer.generation_id for answer in answers] == [outcome.generation_id for outcome in outcomes]
    assert {answer.charge.amount.nanos for answer in answers} == {750_108_192}
