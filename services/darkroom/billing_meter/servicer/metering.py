"""MeteringService: how the scheduler holds money ahead of work and records what the work used.

Only the other rooms may call it. A batch of outcomes is checked as a whole; what the ledger then refuses is refused one by one, so
that one bad outcome holds up no other.
"""

import logging

from darkroom import postgres, validation
from darkroom.api.billing_meter.v1 import metering_service_pb2 as pb
from darkroom.api.billing_meter.v1 import metering_service_pb2_grpc
from darkroom.api.types.v1 import money_pb2
from darkroom.billing_meter import domain
from darkroom.billing_meter.servicer import Context, check, translate
from darkroom.billing_meter.store import leases, outcomes, prices

OUTCOMES_MAX = 500
REASON_BYTES_MAX = 64
TAGS_MAX = 16
TAG_NAME_BYTES_MAX = 64
TAG_VALUE_BYTES_MAX = 256

_log = logging.getLogger(__name__)


class MeteringServicer(metering_service_pb2_grpc.MeteringServiceServicer):
    """Answers MeteringService from the room's database."""

    def __init__(self, database: postgres.Database) -> None:
        self._database = database

    async def ListPrices(self, request: pb.ListPricesRequest, context: Context) -> pb.ListPricesResponse:
        """Read the price versions in force now."""
        versions = await prices.in_force(self._database)
        return pb.ListPricesResponse(prices=map(translate.price_version, versions))

    async def GrantLease(self, request: pb.GrantLeaseRequest, context: Context) -> pb.GrantLeaseResponse:
        """Hold money for the scheduler to spend."""
        violations = validation.Violations()
        violations.identifier("tenant_id", request.tenant_id, "ten")
        violations.identifier("grant_id", request.grant_id, "lea")
        wanted = check.amount(violations, "wanted", request.wanted)
        least = check.amount(violations, "least", request.least)
        violations.check(least.nanos <= wanted.nanos, "least.nanos", "must be at most wanted.nanos")
        violations.check(least.currency == wanted.currency, "least.currency", "must be the currency of wanted")
        violations.raise_if_any()
        granted_nanos = await leases.grant(
            self._database,
            tenant_id=request.tenant_id,
            grant_id=request.grant_id,
            currency=wanted.currency,
            wanted_nanos=wanted.nanos,
            least_nanos=least.nanos,
        )
        return pb.GrantLeaseResponse(granted=money_pb2.Money(currency=wanted.currency, nanos=granted_nanos))

    async def ReleaseLease(self, request: pb.ReleaseLeaseRequest, context: Context) -> pb.ReleaseLeaseResponse:
        """Give unspent money back."""
        violations = validation.Violations()
        violations.identifier("tenant_id", request.tenant_id, "ten")
        violations.identifier("release_id", request.release_id, "lea")
        amount = check.amount(violations, "amount", request.amount)
        violations.raise_if_any()
        await leases.release(
            self._database,
            tenant_id=request.tenant_id,
            release_id=request.release_id,
            currency=amount.currency,
            nanos=amount.nanos,
        )
        return pb.ReleaseLeaseResponse()

    async def RecordOutcomes(self, request: pb.RecordOutcomesRequest, context: Context) -> pb.RecordOutcomesResponse:
        """Record finished generations, each once."""
        violations = validation.Violations()
        violations.integer("outcomes", len(request.outcomes), low=1, high=OUTCOMES_MAX)
        violations.raise_if_any()
        told = [_outcome(violations, f"outcomes[{index}]", each) for index, each in enumerate(request.outcomes)]
        violations.raise_if_any()
        recorded = await outcomes.record(self._database, told)
        for each in recorded:
            if each.refusal:
                _log.warning("outcome refused", extra={"generation_id": each.generation_id, "refusal": each.refusal})
        return pb.RecordOutcomesResponse(outcomes=map(_recorded, recorded))


def _outcome(violations: validation.Violations, field: str, sent: pb.Outcome) -> domain.Outcome:
    violations.identifier(f"{field}.generation_id", sent.generation_id, "gen")
    violations.identifier(f"{field}.tenant_id", sent.tenant_id, "ten")
    violations.name(f"{field}.model", sent.model)
    violations.identifier(f"{field}.price_version_id", sent.price_version_id, "pri")
    violations.text(f"{field}.free_reason", sent.free_reason, bytes_max=REASON_BYTES_MAX)
    violations.check(sent.HasField("finished_at"), f"{field}.finished_at", "is required")
    _check_tags(violations, f"{field}.tags", dict(sent.tags))
    return domain.Outcome(
        generation_id=sent.generation_id,
        tenant_id=sent.tenant_id,
        model=sent.model,
        price_version_id=sent.price_version_id,
        usage=check.usage(violations, f"{field}.usage", sent.usage),
        estimate=check.amount(violations, f"{field}.estimate", sent.estimate, low=0),
        amount=check.amount(violations, f"{field}.amount", sent.amount, low=0),
        free_reason=sent.free_reason,
        finished_at=check.instant(violations, f"{field}.finished_at", sent.finished_at),
        tags=dict(sent.tags),
        quality=check.quality(violations, f"{field}.quality", sent.quality),
    )


def _check_tags(violations: validation.Violations, field: str, tags: dict[str, str]) -> None:
    violations.check(len(tags) <= TAGS_MAX, field, f"must be at most {TAGS_MAX}")
    for name, value in tags.items():
        violations.text(field, name, bytes_max=TAG_NAME_BYTES_MAX, required=True)
        violations.text(field, value, bytes_max=TAG_VALUE_BYTES_MAX)


def _recorded(noun: domain.Recorded) -> pb.RecordedOutcome:
    charge = translate.charge(noun.charge) if noun.charge else None
    return pb.RecordedOutcome(generation_id=noun.generation_id, charge=charge, refusal=noun.refusal)
