"""Tokens say who calls, expire, and cannot be forged or widened."""

import time

import jwt
import pytest

from darkroom import errors, tokens


def test_a_service_token_is_internal(service_secret):
    principal = tokens.verify(service_secret, tokens.service_token(service_secret, "scheduler"))
    assert principal == tokens.Principal(tenant_id="", key_id="room:scheduler", scopes=frozenset({"internal"}))
    assert principal.has("internal")
    assert not principal.has("operator")


def test_a_capability_is_of_one_generation(service_secret):
    token = tokens.capability(
        service_secret, tenant_id="ten_1", generation_id="gen_1", scopes=["loras.read", "media.write"]
    )
    principal = tokens.verify(service_secret, token)
    assert (principal.tenant_id, principal.generation_id) == ("ten_1", "gen_1")
    assert principal.scopes == {"loras.read", "media.write"}


@pytest.mark.parametrize("scope", ["internal", "operator"])
def test_a_capability_cannot_hold_more_than_a_tenants_scopes(service_secret, scope):
    with pytest.raises(ValueError, match="tenant scopes"):
        tokens.capability(service_secret, tenant_id="ten_1", generation_id="gen_1", scopes=[scope])


def _forged(secret, algorithm="HS256", **claims):
    now_s = time.time()
    good = {"sub": "room:x", "scope": "internal", "aud": "darkroom", "exp": now_s + 60}
    wanted = {name: value for name, value in {**good, **claims}.items() if value is not None}
    return jwt.encode(wanted, secret, algorithm=algorithm)


@pytest.mark.parametrize(
    "claims",
    [{"exp": time.time() - 120}, {"exp": None}, {"aud": "other"}, {"aud": None}, {"sub": None}, {"scope": None}],
)
def test_a_token_that_lacks_something_is_refused(service_secret, claims):
    assert tokens.verify(service_secret, _forged(service_secret))
    with pytest.raises(errors.Unauthenticated):
        tokens.verify(service_secret, _forged(service_secret, **claims))


def test_another_secret_another_algorithm_and_rubbish_are_refused(service_secret):
    good = tokens.service_token(service_secret, "x")
    head, body, _ = good.split(".")
    bad = [_forged("y" * 64), _forged(service_secret * 2, "HS512"), _forged("", "none"), "", "a.b.c", f"{head}.{body}."]
    for token in bad:
        with pytest.raises(errors.Unauthenticated) as caught:
            tokens.verify(service_secret, token)
        assert service_secret not in str(caught.value)


def test_a_generations_token_that_claims_internal_is_not(service_secret):
    token = _forged(service_secret, sub="generation:gen_1", scope="internal media.read", tenant="ten_1")
    assert tokens.verify(service_secret, token).scopes == {"media.read"}


def test_the_service_credential_is_renewed_before_it_expires(service_secret, monkeypatch):
    now_s = [1000.0]
    monkeypatch.setattr(tokens.time, "monotonic", lambda: now_s[0])
    credential = tokens.ServiceCredential(service_secret, "scheduler")
    first = credential()
    assert credential() is first
    now_s[0] += tokens.SERVICE_TOKEN_S / 2 + 1
    assert credential() is not first
    assert tokens.verify(service_secret, credential()).key_id == "room:scheduler"
