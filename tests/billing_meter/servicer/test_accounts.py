import datetime

from google.protobuf import timestamp_pb2

from darkroom import errors, ids
from darkroom.api.billing_meter.v1 import account_service_pb2 as pb
from darkroom.billing_meter import domain
from tests.billing_meter.harness import USD, Meter, bad_fields, refused, usd

MISSING = "ten_" + "f" * 32


def future() -> timestamp_pb2.Timestamp:
    instant = timestamp_pb2.Timestamp()
    instant.FromDatetime(datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC))
    return instant


async def test_bad_requests_name_their_fields(meter: Meter) -> None:
    tenant_id, call, k = await meter.tenant(), meter.accounts, "k"
    cases = [
        (call.CreateTenant(pb.CreateTenantRequest(idempotency_key=k)), {"name"}),
        (call.CreateTenant(pb.CreateTenantRequest(name="a" * 129, idempotency_key=k)), {"name"}),
        (call.CreateTenant(pb.CreateTenantRequest(name="a\x1b[31m", idempotency_key=k)), {"name"}),
        (call.CreateTenant(pb.CreateTenantRequest(name="\x00")), {"name", "idempotency_key"}),
        (call.CreateTenant(pb.CreateTenantRequest(name="a", idempotency_key="k" * 256)), {"idempotency_key"}),
        (call.CreateTenant(pb.CreateTenantRequest(name="a", idempotency_key="é")), {"idempotency_key"}),
        (call.CreateTenant(pb.CreateTenantRequest(name="a", idempotency_key=k, credit=usd(-1))), {"credit.nanos"}),
        (call.ListTenants(pb.ListTenantsRequest(page_size=201)), {"page_size"}),
        (call.ListTenants(pb.ListTenantsRequest(page_size=-(2**31))), {"page_size"}),
        (call.ListTenants(pb.ListTenantsRequest(page_token="forged")), {"page_token"}),
        (call.AddCredit(pb.AddCreditRequest(tenant_id="ten_", amount=usd(1), idempotency_key=k)), {"tenant_id"}),
        (
            call.AddCredit(pb.AddCreditRequest(tenant_id=tenant_id, idempotency_key=k)),
            {"amount.currency", "amount.nanos"},
        ),
        (
            call.AddCredit(pb.AddCreditRequest(tenant_id=tenant_id, amount=usd(2**63 - 1), idempotency_key=k)),
            {"amount.nanos"},
        ),
        (call.AddCredit(pb.AddCreditRequest(tenant_id=tenant_id, amount=usd(0), idempotency_key=k)), {"amount.nanos"}),
        (call.CreateKey(pb.CreateKeyRequest(tenant_id="../etc", name="n")), {"tenant_id"}),
        (call.CreateKey(pb.CreateKeyRequest(tenant_id=tenant_id, name="No Name")), {"name"}),
        (call.CreateKey(pb.CreateKeyRequest(tenant_id=tenant_id, name="n", scopes=["internal"])), {"scopes"}),
        (
            call.CreateKey(pb.CreateKeyRequest(tenant_id=tenant_id, name="n", scopes=["billing.read", "all"])),
            {"scopes"},
        ),
        (
            call.CreateKey(
                pb.CreateKeyRequest(tenant_id=tenant_id, name="n", expires_at=timestamp_pb2.Timestamp(seconds=1))
            ),
            {"expires_at"},
        ),
        (
            call.CreateKey(
                pb.CreateKeyRequest(tenant_id=tenant_id, name="n", expires_at=timestamp_pb2.Timestamp(seconds=-1))
            ),
            {"expires_at"},
        ),
        (call.ListKeys(pb.ListKeysRequest(tenant_id="key_" + "0" * 32)), {"tenant_id"}),
        (call.ListKeys(pb.ListKeysRequest(tenant_id=tenant_id, page_size=-1)), {"page_size"}),
        (call.RevokeKey(pb.RevokeKeyRequest(key_id="dk_0123456789ab")), {"key_id"}),
        (meter.verifying.VerifyKey(pb.VerifyKeyRequest()), {"api_key"}),
    ]
    for index, (request, fields) in enumerate(cases):
        assert await bad_fields(request) == fields, index
    assert await meter.database.fetchval("SELECT count(*) FROM tenant") == 2
    assert await meter.database.fetchval("SELECT count(*) FROM api_key") == 1


async def test_what_is_missing_is_not_found(meter: Meter) -> None:
    for call in (
        meter.accounts.AddCredit(pb.AddCreditRequest(tenant_id=MISSING, amount=usd(1), idempotency_key="k")),
        meter.accounts.CreateKey(pb.CreateKeyRequest(tenant_id=MISSING, name="n")),
        meter.accounts.ListKeys(pb.ListKeysRequest(tenant_id=MISSING)),
        meter.accounts.RevokeKey(pb.RevokeKeyRequest(key_id="key_" + "f" * 32)),
    ):
        assert isinstance(await refused(call), errors.NotFound)


async def test_a_tenants_life(meter: Meter) -> None:
    request = pb.CreateTenantRequest(name="studio", credit=usd(USD), idempotency_key="k")
    tenant = (await meter.accounts.CreateTenant(request)).tenant
    assert (tenant.name, tenant.balance, tenant.held) == ("studio", usd(USD), usd(0))
    assert (await meter.accounts.CreateTenant(request)).tenant == tenant
    credit = pb.AddCreditRequest(tenant_id=tenant.tenant_id, amount=usd(5), idempotency_key="k")
    for _ in range(2):
        assert (await meter.accounts.AddCredit(credit)).tenant.balance == usd(USD + 5)
    await meter.grant(tenant.tenant_id, 7)
    listed = (await meter.accounts.ListTenants(pb.ListTenantsRequest())).tenants
    assert [(each.balance, each.held) for each in listed if each.tenant_id == tenant.tenant_id] == [
        (usd(USD + 5), usd(7))
    ]


async def test_a_tenant_without_credit_is_in_dollars(meter: Meter) -> None:
    tenant = (await meter.accounts.CreateTenant(pb.CreateTenantRequest(name="a", idempotency_key="k"))).tenant
    assert tenant.balance == usd(0)


async def test_a_key_has_every_tenant_scope_unless_told_otherwise(meter: Meter) -> None:
    tenant_id = await meter.tenant()
    made = await meter.key(tenant_id)
    assert set(made.key.scopes) == domain.TENANT_SCOPES
    assert made.api_key.startswith(made.key.prefix + "_")
    narrow = await meter.key(tenant_id, name="narrow", scopes=["billing.read"], expires_at=future())
    assert (list(narrow.key.scopes), narrow.key.expires_at) == (["billing.read"], future())
    operator = await meter.key(domain.PLATFORM_TENANT_ID, name="second", scopes=["operator"])
    assert list(operator.key.scopes) == ["operator"]


async def test_a_key_is_verified_until_it_is_revoked(meter: Meter) -> None:
    tenant_id = await meter.tenant()
    made = await meter.key(tenant_id)
    verified = await meter.verifying.VerifyKey(pb.VerifyKeyRequest(api_key=made.api_key))
    assert (verified.tenant_id, verified.key_id) == (tenant_id, made.key.key_id)
    assert set(verified.scopes) == domain.TENANT_SCOPES
    revoked = (await meter.accounts.RevokeKey(pb.RevokeKeyRequest(key_id=made.key.key_id))).key
    assert revoked.HasField("revoked_at")
    for text in (made.api_key, "nonsense", "dk_" + "0" * 10**5):
        error = await refused(meter.verifying.VerifyKey(pb.VerifyKeyRequest(api_key=text)))
        assert isinstance(error, errors.Unauthenticated)


async def test_a_third_live_key_of_one_name_is_refused(meter: Meter) -> None:
    tenant_id = await meter.tenant()
    for _ in range(2):
        await meter.key(tenant_id)
    error = await refused(meter.key(tenant_id))
    assert (error.code, error.reason) == ("FAILED_PRECONDITION", "TOO_MANY_KEYS")


async def test_pages_follow_one_another_and_their_tokens_fit_nothing_else(meter: Meter) -> None:
    first, second = await meter.tenant(), await meter.tenant()
    for tenant_id in (first, second):
        for name in ("a", "b", "c"):
            await meter.key(tenant_id, name=name)
    seen, token = [], ""
    while page := await meter.accounts.ListKeys(pb.ListKeysRequest(tenant_id=first, page_size=2, page_token=token)):
        seen += [key.name for key in page.keys]
        token = page.next_page_token
        if not token:
            break
        stolen = meter.accounts.ListKeys(pb.ListKeysRequest(tenant_id=second, page_token=token))
        assert await bad_fields(stolen) == {"page_token"}
        assert await bad_fields(meter.accounts.ListTenants(pb.ListTenantsRequest(page_token=token))) == {"page_token"}
    assert seen == ["c", "b", "a"]


async def test_pages_of_tenants(meter: Meter) -> None:
    made = sorted([await meter.tenant(0) for _ in range(4)] + [domain.PLATFORM_TENANT_ID])
    page = await meter.accounts.ListTenants(pb.ListTenantsRequest(page_size=3))
    rest = await meter.accounts.ListTenants(pb.ListTenantsRequest(page_size=3, page_token=page.next_page_token))
    assert [each.tenant_id for each in [*page.tenants, *rest.tenants]] == made
    assert rest.next_page_token == ""
    assert ids.check(made[1], "ten")
