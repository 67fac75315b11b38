"""Keys are remembered for a stated time and no longer, refusals briefly, and never in the clear."""

import asyncio

import pytest

from darkroom import errors, rpc, tokens

from .conftest import TENANT_KEY

PRINCIPAL = tokens.Principal(tenant_id="ten_1", key_id="key_1", scopes=frozenset({"media.read"}))


class Store:
    """Answers whatever it is told to, and counts."""

    def __init__(self):
        self.calls = 0
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, api_key):
        self.calls += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return PRINCIPAL


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def now_s():
    return [100.0]


@pytest.fixture
def cache(store, now_s):
    return rpc.KeyCache(store, cache_s=5.0, entries_max=3, monotonic_s=lambda: now_s[0])


async def test_a_revoked_key_is_refused_within_the_bound(cache, store, now_s):
    assert await cache("k") == PRINCIPAL
    store.error = errors.Unauthenticated("revoked")
    now_s[0] += 4.9
    assert await cache("k") == PRINCIPAL
    assert store.calls == 1
    now_s[0] += 0.1
    with pytest.raises(errors.Unauthenticated):
        await cache("k")


async def test_the_time_counts_from_the_question(cache, store, now_s):
    store.gate.clear()
    waiting = asyncio.create_task(cache("k"))
    await asyncio.sleep(0)
    now_s[0] += 5.0
    store.gate.set()
    await waiting
    await cache("k")
    assert store.calls == 2


async def test_a_refusal_is_remembered_for_a_second(cache, store, now_s):
    store.error = errors.Unauthenticated("unknown")
    for _ in range(10):
        with pytest.raises(errors.Unauthenticated):
            await cache("k")
    assert store.calls == 1
    store.error = None
    now_s[0] += 1.0
    assert await cache("k") == PRINCIPAL


async def test_an_outage_is_not_remembered(cache, store):
    store.error = errors.Unavailable("away")
    with pytest.raises(errors.Unavailable):
        await cache("k")
    store.error = None
    assert await cache("k") == PRINCIPAL


async def test_the_same_question_at_once_is_asked_once_and_outlives_its_first_asker(cache, store):
    store.gate.clear()
    first, *others = [asyncio.create_task(cache("k")) for _ in range(50)]
    await asyncio.sleep(0)
    first.cancel()
    store.gate.set()
    assert await asyncio.gather(*others) == [PRINCIPAL] * 49
    assert store.calls == 1


async def test_it_is_bounded_and_holds_no_key(cache, store):
    for index in range(100):
        await cache(f"dk_secret{index}")
    assert len(cache._entries) == 3
    assert "secret" not in repr(cache._entries)


async def test_the_remote_verifier_asks_billing_meter(room):
    async with room.channel(tokens.service_token(room.secret, "media_store")) as billing:
        verify = rpc.RemoteKeyVerifier(billing)
        assert await verify(TENANT_KEY) == PRINCIPAL
        assert await verify(TENANT_KEY) == PRINCIPAL
        assert room.accounts.calls == 1
        with pytest.raises(errors.Unauthenticated, match="the API key is not valid"):
            await verify("dk_other")


async def test_the_remote_verifier_without_billing_meter_is_unavailable(free_port):
    async with rpc.channel(f"127.0.0.1:{free_port}") as billing:
        with pytest.raises(errors.Unavailable, match="cannot be verified"):
            await rpc.RemoteKeyVerifier(billing)(TENANT_KEY)
