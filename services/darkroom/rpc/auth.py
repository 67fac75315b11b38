"""Who calls, and may they: default deny.

A method and a call's metadata come in; the principal goes out, or Unauthenticated or PermissionDenied. A credential is
one `authorization: Bearer …`, either an API key (`dk_…`, looked up by the room's `KeyVerifier`) or a token of `tokens`.
What a method needs is its proto's `required_scope`; without one it is refused to everybody.
"""

import contextvars
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

from darkroom import errors, tokens
from darkroom.rpc import methods

KeyVerifier: TypeAlias = Callable[[str], Awaitable[tokens.Principal]]
Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]

API_KEY = re.compile(r"dk_[0-9a-f]{12}_[0-9a-f]{64}")
CREDENTIAL_CHARACTERS_MAX = 2048

_current: contextvars.ContextVar[tokens.Principal] = contextvars.ContextVar("principal")


def principal() -> tokens.Principal:
    """Who made the call being served; LookupError outside of a handler."""
    return _current.get()


def enter(caller: tokens.Principal) -> None:
    """Make `caller` the principal of the present task."""
    _current.set(caller)


class Authenticator:
    """Admits calls of one server."""

    def __init__(self, *, service_secret: str, verify_key: KeyVerifier) -> None:
        self._service_secret = service_secret
        self._verify_key = verify_key

    async def admit(self, method: methods.Method | None, metadata: Metadata) -> tokens.Principal:
        """Return who calls, if they may call this method."""
        caller = await self._identify(credential(metadata))
        if method is None or not method.scope:
            raise errors.PermissionDenied("none")
        if not caller.has(method.scope):
            raise errors.PermissionDenied(method.scope)
        return caller

    async def _identify(self, presented: str) -> tokens.Principal:
        if not presented.startswith("dk_"):
            return tokens.verify(self._service_secret, presented)
        if not API_KEY.fullmatch(presented):
            raise errors.Unauthenticated("the API key is not valid")
        caller = await self._verify_key(presented)
        if caller.has(tokens.INTERNAL):
            raise errors.Unauthenticated("no API key is internal")
        return caller


def credential(metadata: Metadata) -> str:
    """The call's one bearer credential; Unauthenticated if there is none, more than one, or another kind."""
    found = [value for key, value in metadata if key == "authorization"]
    if len(found) != 1:
        raise errors.Unauthenticated("send one 'authorization: Bearer <API key>' in the call's metadata")
    scheme, _, value = str(found[0]).partition(" ")
    if scheme.lower() != "bearer" or not 1 <= len(value) <= CREDENTIAL_CHARACTERS_MAX:
        raise errors.Unauthenticated("the authorization must be 'Bearer <API key>'")
    return value
