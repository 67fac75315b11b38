"""Delivers the outbox to billing_meter: at least once, in batches, with backoff.

Terminal transactions and the idle sweep fill it. What the meter records is marked delivered; what it refuses for good is kept with
the reason and logged as an error, since it is money that an operator must look at.
"""

import asyncio
import logging
from collections.abc import Sequence

from opentelemetry import metrics

from darkroom import errors
from darkroom.scheduler.config import Config
from darkroom.scheduler.peers import billing
from darkroom.scheduler.store import bell, outbox

_FIRST_DELAY_S = 0.1
_PERMANENT = (errors.InvalidArgument, errors.NotFound, errors.FailedPrecondition, errors.AlreadyExists)

_log = logging.getLogger(__name__)
_refusals = metrics.get_meter(__name__).create_counter(
    "darkroom.scheduler.outbox.refusals", description="billing messages that billing_meter refused for good"
)


class Relay:
    """The relay of one replica."""

    def __init__(self, store: outbox.Outbox, meter: billing.Billing, config: Config) -> None:
        self._store = store
        self._meter = meter
        self._config = config

    async def run(self, the_bell: bell.Bell) -> None:
        """Deliver until cancelled: at every ring of the bell, and at least every poll interval."""
        rung = asyncio.Event()
        with the_bell.listen(rung.set):
            while True:
                rung.clear()
                try:
                    delivered = await self.deliver()
                except errors.DarkroomError as error:
                    _log.warning("the outbox waits for the database", extra={"reason": error.reason})
                    delivered = 0
                if not delivered:
                    await _sleep(rung, self._config.poll_interval_s)

    async def deliver(self) -> int:
        """Deliver one batch; how many messages were taken up."""
        entries = await self._store.claim(limit=self._config.outbox_batch_max)
        outcomes = [entry for entry in entries if entry.kind == "OUTCOME"]
        if outcomes:
            await self._deliver_outcomes(outcomes)
        for entry in entries:
            if entry.kind == "RELEASE":
                await self._deliver_release(entry)
        return len(entries)

    async def _deliver_outcomes(self, entries: Sequence[outbox.Entry]) -> None:
        try:
            refusals = await self._meter.record([entry.payload for entry in entries])
        except _PERMANENT as error:
            await self._isolate(entries, error)
            return
        except errors.DarkroomError as error:
            await self._postpone(entries, error)
            return
        refused = [(entry, reason) for entry, reason in zip(entries, refusals, strict=True) if reason]
        await self._store.delivered(
            [entry.outbox_id for entry, reason in zip(entries, refusals, strict=True) if not reason]
        )
        for entry, reason in refused:
            await self._refuse(entry, reason)

    async def _isolate(self, entries: Sequence[outbox.Entry], error: errors.DarkroomError) -> None:
        """The meter refused the call as a whole: send each outcome alone, so that one bad one holds up no other."""
        if len(entries) == 1:
            await self._refuse(entries[0], error.reason)
            return
        for entry in entries:
            await self._deliver_outcomes([entry])

    async def _deliver_release(self, entry: outbox.Entry) -> None:
        try:
            await self._meter.release(entry.payload)
        except _PERMANENT as error:
            await self._refuse(entry, error.reason)
        except errors.DarkroomError as error:
            await self._postpone([entry], error)
        else:
            await self._store.delivered([entry.outbox_id])

    async def _postpone(self, entries: Sequence[outbox.Entry], error: errors.DarkroomError) -> None:
        attempts = max(entry.attempts for entry in entries)
        delay_s = min(self._config.outbox_backoff_s_max, _FIRST_DELAY_S * 2.0 ** min(attempts, 20))
        _log.warning("billing_meter did not take outcomes", extra={"reason": error.reason, "entries": len(entries)})
        await self._store.postpone([entry.outbox_id for entry in entries], delay_s=delay_s)

    async def _refuse(self, entry: outbox.Entry, reason: str) -> None:
        _log.error(
            "billing_meter refused a message for good",
            extra={"kind": entry.kind, "subject_id": entry.subject_id, "reason": reason},
        )
        _refusals.add(1, {"kind": entry.kind, "reason": reason})
        await self._store.refused(entry.outbox_id, reason=reason)


async def _sleep(rung: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):  # wait_for may lose a cancellation before Python 3.12
            await rung.wait()
    except TimeoutError:
        return
