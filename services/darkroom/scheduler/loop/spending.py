"""Keeps tenants' spending leases filled ahead of need, and gives back what lies idle.

`servicer.create` says what it spent (`used`) and, when a lease was short all the same, waits here (`ensure`). Every grant is written
before it is asked for: a lost answer is asked for again under the same id, by whichever replica comes first. Releases go out through
the outbox.
"""

import asyncio
import logging
import time
import weakref
from collections import defaultdict
from typing import NamedTuple

from darkroom import errors, ids
from darkroom.scheduler import grant
from darkroom.scheduler.config import Config
from darkroom.scheduler.domain import spending as domain
from darkroom.scheduler.peers import billing
from darkroom.scheduler.store import spending

LOST_ANSWER_S = 15.0  # after this a grant without an answer is asked for again, whoever asked first

_log = logging.getLogger(__name__)


class _Use(NamedTuple):
    currency: str
    lately_nanos: float
    at_s: float


class Funds:
    """The leases that this replica spends from."""

    def __init__(self, store: spending.Spending, meter: billing.Billing, config: Config) -> None:
        self._store = store
        self._meter = meter
        self._config = config
        self._uses: dict[str, _Use] = {}
        self._waiting_nanos: defaultdict[str, int] = defaultdict(int)
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def used(self, tenant_id: str, *, currency: str, nanos: int) -> None:
        """Note a debit, so that the lease is topped up before it is empty."""
        if not nanos:
            return  # a free model needs no lease, and may be priced in another currency
        now_s = time.monotonic()
        self._uses[tenant_id] = _Use(currency, self._lately(tenant_id, now_s) + nanos, now_s)

    async def ensure(self, tenant_id: str, *, currency: str, nanos: int) -> None:
        """Return when the lease holds `nanos` (for the first who takes it); FailedPrecondition if the account does not."""
        self._waiting_nanos[tenant_id] += nanos
        try:
            async with self._lock(tenant_id):
                await self._fill(tenant_id, currency, nanos)
        finally:
            self._waiting_nanos[tenant_id] -= nanos
            if not self._waiting_nanos[tenant_id]:
                del self._waiting_nanos[tenant_id]

    async def run(self) -> None:
        """Top up busy leases, ask again for lost answers and release idle money until cancelled."""
        while True:
            await asyncio.sleep(self._config.poll_interval_s)
            try:
                await self._top_up_all()
                for lost in await self._store.asked(older_than_s=LOST_ANSWER_S):
                    async with self._lock(lost.tenant_id):
                        await self._settle(lost.tenant_id)
                await self._store.release_idle(idle_s=self._config.lease_idle_s)
            except errors.DarkroomError as error:
                _log.warning("spending leases wait", extra={"reason": error.reason})

    async def _fill(self, tenant_id: str, currency: str, nanos: int) -> None:
        if _missing(await self._store.lease(tenant_id), currency, nanos) <= 0:
            return  # what another waited for is enough for this one too
        await self._settle(tenant_id)
        lease = await self._store.lease(tenant_id)
        missing_nanos = _missing(lease, currency, nanos)
        if missing_nanos > 0:
            await self._ask(tenant_id, currency, self._wanted(tenant_id, lease), missing_nanos)

    async def _top_up_all(self) -> None:
        now_s = time.monotonic()
        for tenant_id, use in list(self._uses.items()):
            if now_s - use.at_s > grant.LOOKAHEAD_S:
                del self._uses[tenant_id]
                continue
            async with self._lock(tenant_id):
                lease = await self._store.lease(tenant_id)
                if grant.is_low(remaining_nanos=lease.remaining_nanos, target_nanos=self._target(tenant_id)):
                    await self._top_up(tenant_id, use.currency, lease)

    async def _top_up(self, tenant_id: str, currency: str, lease: domain.Lease) -> None:
        try:
            await self._ask(tenant_id, currency, self._wanted(tenant_id, lease), 1)
        except errors.FailedPrecondition:  # the account is empty: those who need more will be told
            del self._uses[tenant_id]

    def _wanted(self, tenant_id: str, lease: domain.Lease) -> int:
        return max(self._target(tenant_id), self._waiting_nanos.get(tenant_id, 0)) - lease.remaining_nanos

    def _target(self, tenant_id: str) -> int:
        return grant.target_nanos(
            used_lately_nanos=int(self._lately(tenant_id, time.monotonic())),
            nanos_min=self._config.grant_nanos_min,
            nanos_max=self._config.grant_nanos_max,
        )

    def _lately(self, tenant_id: str, now_s: float) -> float:
        use = self._uses.get(tenant_id)
        return grant.decayed(use.lately_nanos, age_s=now_s - use.at_s) if use else 0.0

    async def _settle(self, tenant_id: str) -> None:
        for lost in await self._store.asked(tenant_id=tenant_id):
            try:
                await self._call(lost)
            except errors.FailedPrecondition:
                continue  # recorded as refused

    async def _ask(self, tenant_id: str, currency: str, wanted_nanos: int, least_nanos: int) -> None:
        asked = domain.Grant(ids.new("lea"), tenant_id, currency, wanted_nanos, least_nanos)
        await self._store.ask(asked)
        await self._call(asked)

    async def _call(self, asked: domain.Grant) -> None:
        try:
            granted_nanos = await self._meter.grant(asked)
        except (errors.FailedPrecondition, errors.InvalidArgument, errors.NotFound) as error:
            await self._store.refuse(asked)
            if error.reason == "CURRENCY_MISMATCH":
                raise
            raise errors.FailedPrecondition("INSUFFICIENT_FUNDS", "the tenant's account does not cover it") from error
        await self._store.apply(asked, granted_nanos=granted_nanos)

    def _lock(self, tenant_id: str) -> asyncio.Lock:
        return self._locks.setdefault(tenant_id, asyncio.Lock())


def _missing(lease: domain.Lease, currency: str, nanos: int) -> int:
    if lease.currency not in ("", currency):
        raise errors.FailedPrecondition(
            "CURRENCY_MISMATCH", f"the model is priced in {currency}, the account is in {lease.currency}"
        )
    return nanos - lease.remaining_nanos
