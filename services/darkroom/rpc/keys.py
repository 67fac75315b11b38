"""Whose API key this is, asked of billing_meter and remembered for a few seconds.

A key comes in from `auth`; its principal goes out. Answers live `cache_s` (so a revoked key is refused within that
time), refusals 1 s (so that guessing costs billing_meter little), and the same question asked at once by many calls is
asked once. The cache knows keys only by their SHA-256 and is bounded.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import grpc

from darkroom import errors, tokens
from darkroom.api.billing_meter.v1 import account_service_pb2, account_service_pb2_grpc
from darkroom.rpc import auth, status

REFUSAL_CACHE_S = 1.0
VERIFY_TIMEOUT_S = 5.0


class _Entry(NamedTuple):
    expires_at_s: float
    answer: "asyncio.Future[tokens.Principal]"


class KeyCache:
    """A KeyVerifier that remembers another one's answers."""

    def __init__(
        self,
        verify: auth.KeyVerifier,
        *,
        cache_s: float = 5.0,
        entries_max: int = 10_000,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._verify = verify
        self._cache_s = cache_s
        self._entries_max = entries_max
        self._monotonic_s = monotonic_s
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()

    async def __call__(self, api_key: str) -> tokens.Principal:
        """Return the key's principal; Unauthenticated if there is none, Unavailable if nobody can tell."""
        digest = hashlib.sha256(api_key.encode()).digest()
        entry = self._entries.get(digest)
        if entry is None or entry.expires_at_s <= self._monotonic_s():
            entry = self._ask(digest, api_key)
        return await asyncio.shield(entry.answer)  # one caller's cancellation is not the others'

    def _ask(self, digest: bytes, api_key: str) -> _Entry:
        # The time counts from the question, so that a slow answer does not stretch the bound on revocation.
        entry = _Entry(self._monotonic_s() + self._cache_s, asyncio.ensure_future(self._verify(api_key)))
        entry.answer.add_done_callback(lambda answer: self._settle(digest, entry))
        self._entries.pop(digest, None)
        self._entries[digest] = entry
        while len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)
        return entry

    def _settle(self, digest: bytes, entry: _Entry) -> None:
        failure = None if entry.answer.cancelled() else entry.answer.exception()
        if self._entries.get(digest) is not entry or (failure is None and not entry.answer.cancelled()):
            return
        if isinstance(failure, errors.Unauthenticated):
            refused_until_s = self._monotonic_s() + min(REFUSAL_CACHE_S, self._cache_s)
            self._entries[digest] = entry._replace(expires_at_s=refused_until_s)
        else:
            del self._entries[digest]


class RemoteKeyVerifier:
    """The KeyVerifier of every room but billing_meter, over a channel that carries a service token."""

    def __init__(self, billing: grpc.aio.Channel, *, cache_s: float = 5.0) -> None:
        self._accounts = account_service_pb2_grpc.AccountServiceStub(billing)
        self._cached = KeyCache(self._verify, cache_s=cache_s)

    async def __call__(self, api_key: str) -> tokens.Principal:
        """Return the key's principal; Unauthenticated if there is none, Unavailable without billing_meter."""
        return await self._cached(api_key)

    async def _verify(self, api_key: str) -> tokens.Principal:
        request = account_service_pb2.VerifyKeyRequest(api_key=api_key)
        try:
            found = await self._accounts.VerifyKey(request, timeout=VERIFY_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise _refusal(status.from_rpc_error(error)) from error
        return tokens.Principal(tenant_id=found.tenant_id, key_id=found.key_id, scopes=frozenset(found.scopes))


def _refusal(error: errors.DarkroomError) -> errors.DarkroomError:
    if isinstance(error, errors.Unauthenticated):
        return errors.Unauthenticated("the API key is not valid")
    return errors.Unavailable("API keys cannot be verified at the moment")
