"""Default deny: no call passes without a good credential that holds the method's scope."""

import importlib
import pkgutil

import grpc
import pytest

from darkroom import api, rpc, tokens
from darkroom.rpc import auth, methods

from .conftest import CHEATING_KEY, OPERATOR_KEY, TENANT_KEY, verify_key

CREATE = "/darkroom.api.billing_meter.v1.AccountService/CreateTenant"


@pytest.fixture
async def everything(config):
    """A server of every service there is, whose handlers all answer UNIMPLEMENTED."""
    server = rpc.Server(config, room="test", verify_key=verify_key)
    for found in pkgutil.walk_packages(api.__path__, f"{api.__name__}."):
        if found.name.endswith("_pb2_grpc"):
            module = importlib.import_module(found.name)
            for name in dir(module):
                if name.startswith("add_"):
                    servicer = getattr(module, name.removeprefix("add_").removesuffix("_to_server"))
                    server.add(getattr(module, name), servicer())
    yield await server.start()
    await server.stop()


async def _code(address, method, metadata=()):
    async with rpc.channel(address) as channel:
        kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
        call = getattr(channel, kind)(method.path)
        request = iter([b""]) if method.client_streaming else b""
        return await call(request, metadata=metadata, timeout=10).code()


def _bearer(credential):
    return (("authorization", f"Bearer {credential}"),)


@pytest.mark.parametrize("path", sorted(methods.table()))
async def test_every_method_is_closed(everything, service_secret, path):
    method = methods.table()[path]
    assert await _code(everything, method) is grpc.StatusCode.UNAUTHENTICATED
    service = tokens.service_token(service_secret, "test")
    wrong = OPERATOR_KEY if method.scope == "internal" else service
    assert await _code(everything, method, _bearer(wrong)) is grpc.StatusCode.PERMISSION_DENIED
    right = tokens.capability(service_secret, tenant_id="t", generation_id="g", scopes=["x"])
    if method.scope in {"internal", "operator"}:
        right = service if method.scope == "internal" else OPERATOR_KEY
    else:
        right = tokens.capability(service_secret, tenant_id="t", generation_id="g", scopes=[method.scope])
    admitted = await _code(everything, method, _bearer(right))
    # Without its code the handler answers UNIMPLEMENTED, which proves that the call reached it.
    assert admitted in {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL}


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", ""),),
        (("authorization", "Bearer"),),
        (("authorization", "Bearer "),),
        (("authorization", f"Basic {OPERATOR_KEY}"),),
        (("authorization", OPERATOR_KEY),),
        (("authorization", f"Bearer {OPERATOR_KEY}"), ("authorization", f"Bearer {OPERATOR_KEY}")),
        (("authorization", f"Bearer {OPERATOR_KEY}x"),),
        (("authorization", f"Bearer {OPERATOR_KEY.upper()}"),),
        (("authorization", "Bearer dk_"),),
        (("authorization", f"Bearer dk_{'d' * 12}_{'4' * 64}"),),
        (("authorization", "Bearer " + "x" * 4000),),
        (("authorization", f"Bearer {CHEATING_KEY}"),),
        (("x-tenant-id", "ten_1"), ("x-internal", "true")),
    ],
)
async def test_what_is_no_credential(room, metadata):
    method = methods.table()[CREATE]
    assert await _code(room.address, method, metadata) is grpc.StatusCode.UNAUTHENTICATED
    assert room.accounts.calls == 0


async def test_a_method_without_a_scope_is_refused_to_everybody(service_secret):
    door = auth.Authenticator(service_secret=service_secret, verify_key=verify_key)
    nobody = methods.Method(
        "/x/Y", scope="", idempotent=False, client_streaming=False, server_streaming=False, request=""
    )
    for credential in (tokens.service_token(service_secret, "x"), OPERATOR_KEY, TENANT_KEY):
        for method in (nobody, None):
            with pytest.raises(auth.errors.PermissionDenied):
                await door.admit(method, _bearer(credential))


def test_outside_of_a_call_there_is_no_principal():
    with pytest.raises(LookupError):
        rpc.principal()
