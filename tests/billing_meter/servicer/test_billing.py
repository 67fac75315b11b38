import datetime
from typing import Any

from google.protobuf import timestamp_pb2

from darkroom import errors
from darkroom.api.billing_meter.v1 import billing_service_pb2 as pb
from darkroom.billing_meter import domain
from tests.billing_meter.harness import MODEL, USD, Meter, bad_fields, refused, usd

COST = 750_108_192
NOON = datetime.datetime(2026, 11, 20, 12, tzinfo=datetime.UTC)  # when the harness' outcomes finish
DAY = datetime.timedelta(days=1)


def stamp(instant: datetime.datetime) -> timestamp_pb2.Timestamp:
    result = timestamp_pb2.Timestamp()
    result.FromDatetime(instant)
    return result


def report(start: datetime.datetime, end: datetime.datetime, *group_by: int) -> pb.ReportUsageRequest:
    fields: dict[str, Any] = {"from": stamp(start), "to": stamp(end), "group_by": group_by}
    return pb.ReportUsageRequest(**fields)


def price(**changes: Any) -> pb.SetPriceRequest:
    fields = {"model": MODEL, "currency": "USD", "nanos_per_image": 7, **changes}
    return pb.SetPriceRequest(price=pb.PriceVersion(**fields), idempotency_key="k")


async def test_bad_requests_name_their_fields(meter: Meter) -> None:
    billing: Any = meter.billing((await meter.key(await meter.tenant())).api_key)
    set_price: Any = meter.operator_billing.SetPrice
    half: dict[str, Any] = {"from": stamp(NOON)}
    whole: dict[str, Any] = {"from": timestamp_pb2.Timestamp(seconds=-1), "to": timestamp_pb2.Timestamp(nanos=-1)}
    cases = [
        (billing.GetCharge(pb.GetChargeRequest()), {"generation_id"}),
        (billing.GetCharge(pb.GetChargeRequest(generation_id="gen_" + "0" * 31)), {"generation_id"}),
        (billing.GetCharge(pb.GetChargeRequest(generation_id="gen_" + "0" * 31 + "G")), {"generation_id"}),
        (billing.ReportUsage(pb.ReportUsageRequest()), {"from", "to"}),
        (billing.ReportUsage(pb.ReportUsageRequest(**half)), {"to"}),
        (billing.ReportUsage(pb.ReportUsageRequest(**whole)), {"from", "to"}),
        (billing.ReportUsage(report(NOON, NOON)), {"to"}),
        (billing.ReportUsage(report(NOON, NOON - DAY)), {"to"}),
        (billing.ReportUsage(report(NOON, NOON + 401 * DAY)), {"to"}),
        (billing.ReportUsage(report(NOON, NOON + 1000 * 365 * DAY)), {"to"}),
        (billing.ReportUsage(report(NOON, NOON + DAY, 0)), {"group_by"}),
        (billing.ReportUsage(report(NOON, NOON + DAY, 1, 1)), {"group_by"}),
        (billing.ReportUsage(report(NOON, NOON + DAY, 77)), {"group_by"}),
        (set_price(price(model="../etc")), {"price.model"}),
        (set_price(price(currency="usd")), {"price.currency"}),
        (set_price(price(nanos_per_image=-1)), {"price.nanos_per_image"}),
        (set_price(price(nanos_per_megapixel=domain.RATE_NANOS_MAX + 1)), {"price.nanos_per_megapixel"}),
        (set_price(price(nanos_per_media_second=-1)), {"price.nanos_per_media_second"}),
        (set_price(price(nanos_per_gpu_second=2**63 - 1)), {"price.nanos_per_gpu_second"}),
        (set_price(price(minimum_nanos=-5)), {"price.minimum_nanos"}),
        (
            set_price(price(effective_from=stamp(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)))),
            {"price.effective_from"},
        ),
        (set_price(price(effective_from=timestamp_pb2.Timestamp(seconds=-1))), {"price.effective_from"}),
        (set_price(pb.SetPriceRequest()), {"price.model", "price.currency", "idempotency_key"}),
    ]
    for index, (request, fields) in enumerate(cases):
        assert await bad_fields(request) == fields, index
    assert await meter.database.fetchval("SELECT count(*) FROM price_version") == 1


async def test_a_tenant_reads_its_own_charges_alone(meter: Meter) -> None:
    tenant_id, other = await meter.tenant(), await meter.tenant()
    charged, free = await meter.outcome(tenant_id), await meter.outcome(tenant_id, free_reason="FAILED")
    foreign, missing = await meter.outcome(other), await meter.outcome(tenant_id)
    await meter.record(charged, free, foreign)
    billing: Any = meter.billing((await meter.key(tenant_id)).api_key)
    read = (await billing.GetCharge(pb.GetChargeRequest(generation_id=charged.generation_id))).charge
    assert (read.state, read.amount, len(read.lines)) == (pb.CHARGE_STATE_POSTED, usd(COST), 3)
    read = (await billing.GetCharge(pb.GetChargeRequest(generation_id=free.generation_id))).charge
    assert (read.state, read.free_reason, read.amount) == (pb.CHARGE_STATE_FREE, "FAILED", usd(0))
    texts = set()
    for outcome in (foreign, missing):
        error = await refused(billing.GetCharge(pb.GetChargeRequest(generation_id=outcome.generation_id)))
        assert isinstance(error, errors.NotFound)
        texts.add(str(error).replace(outcome.generation_id, "…"))
    assert len(texts) == 1


async def test_a_report_adds_up(meter: Meter) -> None:
    tenant_id = await meter.tenant()
    await meter.record(await meter.outcome(tenant_id), await meter.outcome(tenant_id, free_reason="FAILED"))
    billing: Any = meter.billing((await meter.key(tenant_id)).api_key)
    grouped = await billing.ReportUsage(report(NOON, NOON + 400 * DAY, pb.USAGE_GROUP_DAY, pb.USAGE_GROUP_MODEL))
    assert [(row.day, row.model, row.generations, row.free_generations) for row in grouped.rows] == [
        ("2026-11-20", MODEL, 1, 1)
    ]
    assert (grouped.total.amount, grouped.total.usage.images) == (usd(COST), 1)
    whole = await billing.ReportUsage(report(NOON, NOON + DAY))
    assert list(whole.rows) == [whole.total]
    assert (whole.total.day, whole.total.model, whole.total.amount) == ("", "", usd(COST))
    nothing = await billing.ReportUsage(report(NOON - DAY, NOON))
    assert [row.generations for row in nothing.rows] == [0]
    assert nothing.total.amount == usd(0)


async def test_a_balance_is_credit_less_charges_and_available_what_is_not_held(meter: Meter) -> None:
    tenant_id = await meter.tenant(10 * USD)
    await meter.grant(tenant_id, 4 * USD)
    await meter.record(await meter.outcome(tenant_id))
    billing: Any = meter.billing((await meter.key(tenant_id)).api_key)
    answer = await billing.GetBalance(pb.GetBalanceRequest())
    assert (answer.balance, answer.held) == (usd(10 * USD - COST), usd(4 * USD - COST))
    assert answer.available == usd(6 * USD)


async def test_a_price_is_set_once_for_each_key(meter: Meter) -> None:
    first = (await meter.operator_billing.SetPrice(price())).price
    assert (await meter.operator_billing.SetPrice(price())).price == first
    assert await meter.price_version_id() == first.price_version_id
    error = await refused(meter.operator_billing.SetPrice(price(nanos_per_image=8)))
    assert isinstance(error, errors.AlreadyExists)
    unknown = await refused(meter.operator_billing.SetPrice(price(model="no-such-model")))
    assert isinstance(unknown, errors.AlreadyExists)


async def test_a_key_without_the_scope_reads_no_bill(meter: Meter) -> None:
    made = await meter.key(await meter.tenant(), scopes=["media.read"])
    billing: Any = meter.billing(made.api_key)
    assert isinstance(await refused(billing.GetBalance(pb.GetBalanceRequest())), errors.PermissionDenied)
    assert isinstance(await refused(billing.Reconcile(pb.ReconcileRequest())), errors.PermissionDenied)


async def test_reconcile_is_for_operators_and_names_what_fails(meter: Meter) -> None:
    tenant_id = await meter.tenant()
    results = (await meter.operator_billing.Reconcile(pb.ReconcileRequest())).results
    assert {result.violations for result in results} == {0}
    await meter.database.execute("UPDATE balance SET held_nanos = 1 WHERE tenant_id = $1", tenant_id)
    assert await meter.violations() == {"balances_equal_entries": 1, "held_equals_open_leases": 1}
