"""BillingService: a tenant's bill; prices and reconciliation for operators.

The tenant is always the caller's own, so another tenant's generation is not found, exactly as a missing one.
"""

import dataclasses
import datetime

from darkroom import postgres, pricing, rpc, validation
from darkroom.api.billing_meter.v1 import billing_service_pb2 as pb
from darkroom.api.billing_meter.v1 import billing_service_pb2_grpc
from darkroom.api.types.v1 import money_pb2
from darkroom.billing_meter import domain, report
from darkroom.billing_meter.servicer import Context, check, translate
from darkroom.billing_meter.store import charges, invariants, prices, tenants, usage

_GROUPS = (pb.USAGE_GROUP_MODEL, pb.USAGE_GROUP_DAY)
_RATES = tuple(field.name for field in dataclasses.fields(pricing.Rates) if field.name != "currency")


class BillingServicer(billing_service_pb2_grpc.BillingServiceServicer):
    """Answers BillingService from the room's database."""

    def __init__(self, database: postgres.Database) -> None:
        self._database = database

    async def GetCharge(self, request: pb.GetChargeRequest, context: Context) -> pb.GetChargeResponse:
        """Read one generation's billing outcome."""
        violations = validation.Violations()
        violations.identifier("generation_id", request.generation_id, "gen")
        violations.raise_if_any()
        tenant_id = rpc.principal().tenant_id
        charge = await charges.get(self._database, tenant_id=tenant_id, generation_id=request.generation_id)
        return pb.GetChargeResponse(charge=translate.charge(charge))

    async def ReportUsage(self, request: pb.ReportUsageRequest, context: Context) -> pb.ReportUsageResponse:
        """Sum the tenant's usage over a time range."""
        start, end = _range(request)
        tenant = await tenants.get(self._database, rpc.principal().tenant_id)
        rows = await usage.rows(
            self._database,
            tenant_id=tenant.tenant_id,
            start=start,
            end=end,
            by_model=pb.USAGE_GROUP_MODEL in request.group_by,
            by_day=pb.USAGE_GROUP_DAY in request.group_by,
        )
        total = report.total(rows)
        shown = rows if request.group_by else [total]
        return pb.ReportUsageResponse(
            rows=[translate.usage_row(row, currency=tenant.currency) for row in shown],
            total=translate.usage_row(total, currency=tenant.currency),
        )

    async def GetBalance(self, request: pb.GetBalanceRequest, context: Context) -> pb.GetBalanceResponse:
        """Read the tenant's balance."""
        noun = await tenants.get(self._database, rpc.principal().tenant_id)
        tenant = translate.tenant(noun)
        available = money_pb2.Money(currency=noun.currency, nanos=noun.balance.available_nanos)
        return pb.GetBalanceResponse(balance=tenant.balance, held=tenant.held, available=available)

    async def SetPrice(self, request: pb.SetPriceRequest, context: Context) -> pb.SetPriceResponse:
        """Make a new price version."""
        effective_from = _check_price(request)
        rates = pricing.Rates(
            currency=request.price.currency, **{name: int(getattr(request.price, name)) for name in _RATES}
        )
        version = await prices.set_price(
            self._database,
            model=request.price.model,
            rates=rates,
            effective_from=effective_from,
            idempotency_key=request.idempotency_key,
        )
        return pb.SetPriceResponse(price=translate.price_version(version))

    async def Reconcile(self, request: pb.ReconcileRequest, context: Context) -> pb.ReconcileResponse:
        """Run the ledger's invariants."""
        results = await invariants.check(self._database)
        return pb.ReconcileResponse(results=[pb.InvariantResult(**result._asdict()) for result in results])


def _range(request: pb.ReportUsageRequest) -> tuple[datetime.datetime, datetime.datetime]:
    violations = validation.Violations()
    violations.check(request.HasField("from"), "from", "is required")
    violations.check(request.HasField("to"), "to", "is required")
    violations.raise_if_any()
    start = check.instant(violations, "from", getattr(request, "from"))
    end = check.instant(violations, "to", request.to)
    violations.raise_if_any()
    longest = datetime.timedelta(days=report.DAYS_MAX)
    violations.check(
        datetime.timedelta() < end - start <= longest, "to", f"must be after from, by at most {report.DAYS_MAX} days"
    )
    known = set(request.group_by) <= set(_GROUPS) and len(set(request.group_by)) == len(request.group_by)
    violations.check(known, "group_by", "must name model and day, each at most once")
    violations.raise_if_any()
    return start, end


def _check_price(request: pb.SetPriceRequest) -> datetime.datetime | None:
    price, violations = request.price, validation.Violations()
    violations.name("price.model", price.model)
    check.currency(violations, "price.currency", price.currency)
    for name in _RATES:
        violations.integer(f"price.{name}", getattr(price, name), low=0, high=domain.RATE_NANOS_MAX)
    violations.idempotency_key("idempotency_key", request.idempotency_key)
    effective_from = None
    if price.HasField("effective_from"):
        effective_from = check.instant(violations, "price.effective_from", price.effective_from)
    violations.raise_if_any()
    return effective_from
