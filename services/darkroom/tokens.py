"""Credentials that the rooms give each other.

The shared service secret comes in; short-lived HS256 tokens go out: a *service token* says which room calls (scope
"internal"), a *capability* lets a runner act for one tenant's one generation. `rpc.auth` verifies them on every call.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jwt

from darkroom import errors

INTERNAL = "internal"
SERVICE_TOKEN_S = 300
LEEWAY_S = 30  # between machines' wall clocks

_ALGORITHM = "HS256"
_AUDIENCE = "darkroom"


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Who calls: a tenant by a key, a room, or a runner on behalf of a tenant's generation."""

    tenant_id: str
    key_id: str
    scopes: frozenset[str]
    generation_id: str = ""

    def has(self, scope: str) -> bool:
        """Whether the credential holds this scope."""
        return scope in self.scopes


def service_token(secret: str, room: str) -> str:
    """Mint a token for calls from one room to another; it lives 5 minutes."""
    return _mint(secret, {"sub": f"room:{room}", "scope": INTERNAL}, expires_in_s=SERVICE_TOKEN_S)


def capability(
    secret: str, *, tenant_id: str, generation_id: str, scopes: Iterable[str], expires_in_s: float = 3600.0
) -> str:
    """Mint a token with which a runner acts for one generation; it can never hold "internal" or "operator"."""
    granted = frozenset(scopes)
    if granted & {INTERNAL, "operator"}:
        raise ValueError("a capability holds tenant scopes only")
    claims = {"sub": f"generation:{generation_id}", "tenant": tenant_id, "scope": " ".join(sorted(granted))}
    return _mint(secret, claims, expires_in_s=expires_in_s)


def verify(secret: str, token: str) -> Principal:
    """Read a token of either kind; Unauthenticated if it is forged, expired or malformed."""
    try:
        claims = jwt.decode(
            token,
            secret,
            algorithms=[_ALGORITHM],
            audience=_AUDIENCE,
            leeway=LEEWAY_S,
            options={"require": ["exp", "aud", "sub", "scope"]},
        )
    except jwt.InvalidTokenError as error:
        raise errors.Unauthenticated("the token is not valid or has expired") from error
    kind, _, subject = str(claims["sub"]).partition(":")
    scopes = frozenset(str(claims["scope"]).split())
    if kind == "room":
        return Principal(tenant_id="", key_id=f"room:{subject}", scopes=scopes)
    return Principal(
        tenant_id=str(claims.get("tenant", "")), key_id="capability", scopes=scopes - {INTERNAL}, generation_id=subject
    )


class ServiceCredential:
    """A room's credential for its calls to others: call it for a token that has at least half its life left."""

    def __init__(self, secret: str, room: str) -> None:
        self._secret = secret
        self._room = room
        self._token = ""
        self._renew_at_s = 0.0

    def __call__(self) -> str:
        """The present token."""
        now_s = time.monotonic()
        if now_s >= self._renew_at_s:
            self._token = service_token(self._secret, self._room)
            self._renew_at_s = now_s + SERVICE_TOKEN_S / 2
        return self._token


def _mint(secret: str, claims: dict[str, Any], *, expires_in_s: float) -> str:
    now_s = time.time()
    return jwt.encode(
        {**claims, "aud": _AUDIENCE, "iat": now_s, "exp": now_s + expires_in_s}, secret, algorithm=_ALGORITHM
    )
