"""AccountService: tenants and their keys, for operators; whose key it is, for the other rooms.

Requests come in with the caller already authenticated and scoped; `store.tenants` and `store.keys` do the work.
"""

import datetime

from darkroom import clock, page_tokens, postgres, validation
from darkroom.api.billing_meter.v1 import account_service_pb2 as pb
from darkroom.api.billing_meter.v1 import account_service_pb2_grpc
from darkroom.billing_meter import api_key, domain
from darkroom.billing_meter.servicer import Context, check, translate
from darkroom.billing_meter.store import keys, tenants

NAME_BYTES_MAX = 128
DEFAULT_CURRENCY = "USD"

_SCOPES = domain.TENANT_SCOPES | {domain.OPERATOR_SCOPE}


class AccountServicer(account_service_pb2_grpc.AccountServiceServicer):
    """Answers AccountService from the room's database."""

    def __init__(self, database: postgres.Database, pages: page_tokens.PageTokens) -> None:
        self._database = database
        self._pages = pages

    async def CreateTenant(self, request: pb.CreateTenantRequest, context: Context) -> pb.CreateTenantResponse:
        """Make a tenant with its account."""
        violations = validation.Violations()
        violations.text("name", request.name, bytes_max=NAME_BYTES_MAX, required=True)
        if request.HasField("credit"):
            check.amount(violations, "credit", request.credit, low=0)
        violations.idempotency_key("idempotency_key", request.idempotency_key)
        violations.raise_if_any()
        tenant = await tenants.create(
            self._database,
            name=request.name,
            currency=request.credit.currency or DEFAULT_CURRENCY,
            credit_nanos=request.credit.nanos,
            idempotency_key=request.idempotency_key,
        )
        return pb.CreateTenantResponse(tenant=translate.tenant(tenant))

    async def ListTenants(self, request: pb.ListTenantsRequest, context: Context) -> pb.ListTenantsResponse:
        """Read a page of tenants, by id."""
        violations = validation.Violations()
        size = check.page_size(violations, request.page_size)
        violations.raise_if_any()
        after = self._pages.read("page_token", request.page_token, "tenants")
        found = await tenants.page(self._database, after=after, limit=size + 1)
        token = self._pages.make("tenants", position=found[size - 1].tenant_id) if len(found) > size else ""
        return pb.ListTenantsResponse(tenants=map(translate.tenant, found[:size]), next_page_token=token)

    async def AddCredit(self, request: pb.AddCreditRequest, context: Context) -> pb.AddCreditResponse:
        """Add prepaid credit."""
        violations = validation.Violations()
        violations.identifier("tenant_id", request.tenant_id, "ten")
        amount = check.amount(violations, "amount", request.amount)
        violations.idempotency_key("idempotency_key", request.idempotency_key)
        violations.raise_if_any()
        tenant = await tenants.add_credit(
            self._database,
            tenant_id=request.tenant_id,
            currency=amount.currency,
            nanos=amount.nanos,
            idempotency_key=request.idempotency_key,
        )
        return pb.AddCreditResponse(tenant=translate.tenant(tenant))

    async def CreateKey(self, request: pb.CreateKeyRequest, context: Context) -> pb.CreateKeyResponse:
        """Make a key; its secret is in this answer alone."""
        violations = validation.Violations()
        violations.identifier("tenant_id", request.tenant_id, "ten")
        violations.name("name", request.name)
        scopes = frozenset(request.scopes) or domain.TENANT_SCOPES
        violations.check(scopes <= _SCOPES, "scopes", f"must be among {', '.join(sorted(_SCOPES))}")
        expires_at = _expiry(violations, request)
        violations.raise_if_any()
        minted = api_key.mint()
        key = await keys.create(
            self._database, minted, tenant_id=request.tenant_id, name=request.name, scopes=scopes, expires_at=expires_at
        )
        return pb.CreateKeyResponse(key=translate.key(key), api_key=minted.text)

    async def ListKeys(self, request: pb.ListKeysRequest, context: Context) -> pb.ListKeysResponse:
        """Read a page of a tenant's keys, newest first."""
        violations = validation.Violations()
        violations.identifier("tenant_id", request.tenant_id, "ten")
        size = check.page_size(violations, request.page_size)
        violations.raise_if_any()
        scope = f"keys:{request.tenant_id}"
        before = self._pages.read("page_token", request.page_token, scope)
        tenant = await tenants.get(self._database, request.tenant_id)
        found = await keys.page(self._database, tenant_id=tenant.tenant_id, before=before, limit=size + 1)
        token = self._pages.make(scope, position=found[size - 1].key_id) if len(found) > size else ""
        return pb.ListKeysResponse(keys=map(translate.key, found[:size]), next_page_token=token)

    async def RevokeKey(self, request: pb.RevokeKeyRequest, context: Context) -> pb.RevokeKeyResponse:
        """End a key."""
        violations = validation.Violations()
        violations.identifier("key_id", request.key_id, "key")
        violations.raise_if_any()
        return pb.RevokeKeyResponse(key=translate.key(await keys.revoke(self._database, request.key_id)))

    async def VerifyKey(self, request: pb.VerifyKeyRequest, context: Context) -> pb.VerifyKeyResponse:
        """Tell a room whose key this is."""
        violations = validation.Violations()
        violations.check(bool(request.api_key), "api_key", "is required")
        violations.raise_if_any()
        principal = await keys.verify(self._database, request.api_key)
        return pb.VerifyKeyResponse(
            tenant_id=principal.tenant_id, key_id=principal.key_id, scopes=sorted(principal.scopes)
        )


def _expiry(violations: validation.Violations, request: pb.CreateKeyRequest) -> datetime.datetime | None:
    if not request.HasField("expires_at"):
        return None
    expires_at = check.instant(violations, "expires_at", request.expires_at)
    violations.check(expires_at > clock.utc_now(), "expires_at", "must be in the future")
    return expires_at
