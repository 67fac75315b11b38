"""Nobody comes in without the right key, at any method of any service; and what is not a message is refused before it is read."""

import asyncio
import re
import secrets

import grpc
import pytest
from google.protobuf import descriptor, descriptor_pool

from darkroom import rpc, tokens
from tests import platforms
from tests.journeys import doors as all_doors
from tests.journeys import load

METHODS = sorted(rpc.methods.table().values())
MALFORMED = b"\x0a\xff\xff\xff\xff\x0f"  # field 1, of 4 GiB, of which nothing comes
NOT_UTF8 = b"\x0a\x02\xff\xfe"  # field 1, text, but not UTF-8
REFUSED = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)  # a runner knows no API keys at all
REVOKED_WITHIN_S = 6.0  # keys are cached for 5 s


def named(method: rpc.methods.Method) -> str:
    return method.path.rpartition(".")[2]


@pytest.mark.parametrize("method", METHODS, ids=named)
async def test_every_method_wants_a_credential(doors: all_doors.Doors, method: rpc.methods.Method) -> None:
    refusal = await doors.call(method.path, b"")
    assert refusal is not None
    assert refusal.code is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("method", METHODS, ids=named)
async def test_every_method_wants_its_scope(
    doors: all_doors.Doors, anna: load.Tenant, method: rpc.methods.Method
) -> None:
    others = {"tenant": anna.api_key, "operator": doors.operator_key, "internal": doors.internal()}
    holder = method.scope if method.scope in others else "tenant"
    for name, credential in others.items():
        refusal = await doors.call(method.path, b"", credential=credential)
        denied = refusal is not None and refusal.code in REFUSED
        operator_reads_models = name == "operator" and method.scope == "models.read"
        assert denied == (name != holder and not operator_reads_models), name


async def test_what_is_no_credential_is_refused(doors: all_doors.Doors, anna: load.Tenant) -> None:
    path = all_doors.path_of("GenerationService/ListGenerations")
    good = f"Bearer {anna.api_key}"
    prefix = anna.api_key.rpartition("_")[0]
    expired = tokens.capability(
        doors.service_secret, tenant_id=anna.tenant_id, generation_id="", scopes=["generations.read"], expires_in_s=-60
    )
    forged = tokens.capability("x" * 64, tenant_id=anna.tenant_id, generation_id="", scopes=["generations.read"])
    unsigned = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzY29wZSI6ImludGVybmFsIn0."
    wrong = (
        "Bearer",
        "Bearer ",
        anna.api_key,
        f"Basic {anna.api_key}",
        f"Bearer {anna.api_key}x",
        f"Bearer {anna.api_key.upper()}",
        f"Bearer {prefix}_{secrets.token_hex(32)}",
        f"Bearer dk_{secrets.token_hex(6)}_{secrets.token_hex(32)}",
        f"Bearer {'a' * 4000}",
        f"Bearer {expired}",
        f"Bearer {forged}",
        f"Bearer {unsigned}",
    )
    for presented in wrong:
        refusal = await doors.call_with(path, b"", metadata=(("authorization", presented),))
        assert refusal is not None, presented
        assert refusal.code is grpc.StatusCode.UNAUTHENTICATED, presented
        assert anna.api_key not in refusal.message
    twice = await doors.call_with(path, b"", metadata=(("authorization", good), ("authorization", good)))
    assert twice is not None
    assert twice.code is grpc.StatusCode.UNAUTHENTICATED
    spoofed = (("authorization", good), ("x-tenant-id", "ten_" + "0" * 32))
    assert await doors.call_with(path, b"", metadata=spoofed) is None


async def test_a_revoked_key_ends_everywhere(doors: all_doors.Doors, platform: platforms.Platform) -> None:
    async with platform.operator() as operator:
        leaver = await load.new_tenant(platform, "leaver")
        (key,) = await operator.list_keys(tenant_id=leaver.tenant_id)
        paths = [
            method.path
            for method in METHODS
            if re.search(r"/(List(Generations|Models|Loras)|GetBalance)$", method.path)
        ]
        assert len(paths) == 4
        assert [await doors.call(path, b"", credential=leaver.api_key) for path in paths] == [None] * 4
        await operator.revoke_key(key_id=key.key_id)
        await asyncio.sleep(REVOKED_WITHIN_S)
        for path in paths:
            refusal = await doors.call(path, b"", credential=leaver.api_key)
            assert refusal is not None, path
            assert refusal.code is grpc.StatusCode.UNAUTHENTICATED, path


@pytest.mark.parametrize("sent", [MALFORMED, NOT_UTF8], ids=["malformed", "not UTF-8"])
@pytest.mark.parametrize("method", METHODS, ids=named)
async def test_what_is_no_message_is_refused(
    doors: all_doors.Doors, anna: load.Tenant, method: rpc.methods.Method, sent: bytes
) -> None:
    holders = {"operator": doors.operator_key, "internal": doors.internal()}
    refusal = await doors.call(method.path, sent, credential=holders.get(method.scope, anna.api_key))
    if sent is NOT_UTF8 and refusal is None:
        assert _first_field_is_no_text(method)
        return
    assert refusal is not None
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT


def _first_field_is_no_text(method: rpc.methods.Method) -> bool:
    fields = descriptor_pool.Default().FindMessageTypeByName(method.request).fields_by_number
    return 1 not in fields or fields[1].type != descriptor.FieldDescriptor.TYPE_STRING
