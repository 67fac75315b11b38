"""Bad input for the meter."""

from typing import Any

from google.protobuf import timestamp_pb2

from darkroom import ids
from darkroom.api.billing_meter.v1 import account_service_pb2 as account_pb
from darkroom.api.billing_meter.v1 import billing_service_pb2 as billing_pb
from darkroom.api.billing_meter.v1 import metering_service_pb2 as metering_pb
from darkroom.api.types.v1 import money_pb2
from tests.journeys import load
from tests.journeys.bad import TENANT, Bad, one, usd


def report(field: str, start: int | None, end: int | None, *groups: int) -> Bad:
    request = billing_pb.ReportUsageRequest(group_by=groups)
    for name, value in (("from", start), ("to", end)):
        if value is not None:
            getattr(request, name).CopyFrom(timestamp_pb2.Timestamp(seconds=value))
    return Bad("tenant", "BillingService/ReportUsage", (request,), field)


def price(field: str, key: str = "k", **changes: Any) -> Bad:
    version = billing_pb.PriceVersion(**{"model": load.MODEL, "currency": "USD", "nanos_per_image": 1, **changes})
    return Bad(
        "operator", "BillingService/SetPrice", (billing_pb.SetPriceRequest(price=version, idempotency_key=key),), field
    )


def outcome(field: str, **changes: Any) -> Bad:
    good = {
        "generation_id": ids.new("gen"),
        "tenant_id": TENANT,
        "model": load.MODEL,
        "price_version_id": ids.new("pri"),
        "estimate": usd(1),
        "amount": usd(1),
        "finished_at": timestamp_pb2.Timestamp(seconds=1),
    }
    request = metering_pb.RecordOutcomesRequest(outcomes=[metering_pb.Outcome(**{**good, **changes})])
    return Bad("internal", "MeteringService/RecordOutcomes", (request,), f"outcomes[0].{field}")


TABLE = [
    # accounts
    one("operator", "AccountService/CreateTenant", account_pb.CreateTenantRequest(idempotency_key="k"), "name"),
    one(
        "operator",
        "AccountService/CreateTenant",
        account_pb.CreateTenantRequest(name="n", credit=usd(-1), idempotency_key="k"),
        "credit.nanos",
    ),
    one(
        "operator",
        "AccountService/AddCredit",
        account_pb.AddCreditRequest(tenant_id=TENANT, amount=usd(0), idempotency_key="k"),
        "amount.nanos",
    ),
    one(
        "operator",
        "AccountService/AddCredit",
        account_pb.AddCreditRequest(tenant_id="me", amount=usd(1), idempotency_key="k"),
        "tenant_id",
    ),
    one(
        "operator",
        "AccountService/CreateKey",
        account_pb.CreateKeyRequest(tenant_id=TENANT, name="n", scopes=["internal"]),
        "scopes",
    ),
    one(
        "operator",
        "AccountService/CreateKey",
        account_pb.CreateKeyRequest(tenant_id=TENANT, name="n", expires_at=timestamp_pb2.Timestamp(seconds=1)),
        "expires_at",
    ),
    one("operator", "AccountService/ListKeys", account_pb.ListKeysRequest(tenant_id=TENANT, page_size=-1), "page_size"),
    one("operator", "AccountService/ListTenants", account_pb.ListTenantsRequest(page_token="?"), "page_token"),
    one("operator", "AccountService/RevokeKey", account_pb.RevokeKeyRequest(key_id="dk_0123"), "key_id"),
    one("internal", "AccountService/VerifyKey", account_pb.VerifyKeyRequest(), "api_key"),
    # bills
    one("tenant", "BillingService/GetCharge", billing_pb.GetChargeRequest(generation_id="gen_"), "generation_id"),
    report("from", None, 86_400),
    report("to", 0, None),
    report("to", 86_400, 0),
    report("to", 0, 86_400 * 1000),
    report("from", -1, 1),
    report("group_by", 0, 1, 99),
    report("group_by", 0, 1, 1, 1),
    price("price.model", model=""),
    price("price.currency", currency="dollars"),
    price("price.nanos_per_image", nanos_per_image=-1),
    price("price.nanos_per_gpu_second", nanos_per_gpu_second=2**62),
    price("idempotency_key", key=""),
    # the meter
    one(
        "internal",
        "MeteringService/GrantLease",
        metering_pb.GrantLeaseRequest(tenant_id=TENANT, grant_id="x", wanted=usd(1), least=usd(1)),
        "grant_id",
    ),
    one(
        "internal",
        "MeteringService/GrantLease",
        metering_pb.GrantLeaseRequest(tenant_id=TENANT, grant_id=ids.new("lea"), wanted=usd(1), least=usd(2)),
        "least.nanos",
    ),
    one(
        "internal",
        "MeteringService/ReleaseLease",
        metering_pb.ReleaseLeaseRequest(tenant_id=TENANT, release_id=ids.new("lea"), amount=usd(-1)),
        "amount.nanos",
    ),
    one("internal", "MeteringService/RecordOutcomes", metering_pb.RecordOutcomesRequest(), "outcomes"),
    outcome("generation_id", generation_id=""),
    outcome("usage.gpu_time_us", usage=money_pb2.Usage(gpu_time_us=-1)),
    outcome("estimate.currency", estimate=money_pb2.Money(nanos=1)),
    outcome("amount.nanos", amount=usd(-1)),
]
