"""The owner's work in one pool, for as long as it owns it.

`loop.owner` starts `Pool.run` with the ownership's fence. The pool adopts what the database says is running, keeps a link to each
runner, and again and again: buries the dead, moves work from faulty devices, ends what was cancelled or is late, places what waits,
and publishes progress. Outcomes are committed as they arrive and acknowledged after the commit (`loop.tenure` writes).
"""

import asyncio
import logging
import time

from darkroom import rpc, tokens
from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.scheduler import price
from darkroom.scheduler.domain import fleet
from darkroom.scheduler.loop import kept, outcomes
from darkroom.scheduler.loop.link import Link
from darkroom.scheduler.loop.placing import Placing
from darkroom.scheduler.loop.roster import Aboard
from darkroom.scheduler.loop.tenure import Setup, Tenure
from darkroom.scheduler.peers import runner as peer
from darkroom.scheduler.store import attempts
from darkroom.scheduler.store import fleet as fleet_store

PASS_PAUSE_S = 0.01  # rings that come together are one pass
CANCEL_AGAIN_S = 1.0
REMAINING_US_MAX = 30 * 86_400 * 1_000_000

_log = logging.getLogger(__name__)


class Pool:
    """One ownership of one pool."""

    def __init__(self, setup: Setup, fence: fleet.Fence) -> None:
        self._config = setup.config
        self._bell = setup.bell
        self._charging = price.charging(setup.catalog.values())
        self._fleet = fleet_store.Fleet(setup.database)
        self._tenure = Tenure(setup, fence)
        self._roster = self._tenure.roster
        self._placing = Placing(setup, self._tenure)
        credential = tokens.ServiceCredential(self._config.service_secret, "scheduler")
        self._dialler = peer.Dialler(tls=rpc.tls(self._config), credential=credential)
        self._links: dict[str, Link] = {}
        self._link_tasks: dict[str, asyncio.Task[None]] = {}
        self._has_met = False  # until it has, nobody is dead for not being linked
        self._committing: set[fleet.Key] = set()
        self._steps: dict[fleet.Key, attempts.Step] = {}
        self._kept = kept.Kept(self._tenure)
        self._wake = asyncio.Event()
        self._done_s: dict[str, float] = {}  # when the rarer parts of a pass were last done

    async def run(self) -> None:
        """Own the pool until deposed or cancelled."""
        await self._tenure.adopt()
        with self._bell.listen(self._wake.set):
            async with asyncio.TaskGroup() as self._tasks:
                listening = self._tasks.create_task(self._listen_for_silence())
                while not self._tenure.deposed:
                    self._wake.clear()
                    await self._tenure.try_(self._pass)
                    await self._pause()
                for task in (listening, *self._link_tasks.values()):
                    task.cancel()

    async def _pause(self) -> None:
        await asyncio.sleep(PASS_PAUSE_S)
        try:
            async with asyncio.timeout(self._config.tick_interval_s):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _pass(self) -> None:
        await self._meet_runners()
        await self._bury_dead()
        await self._evacuate()
        await self._tenure.find_astray(committing=self._committing)
        await self._end_due()
        await self._placing.place(self._links.values())
        await self._publish()

    # the fleet

    async def _meet_runners(self) -> None:
        if self._has_met and not self._due_again("meet", self._config.poll_interval_s):
            return
        for registration in await self._fleet.of_pool(self._tenure.fence.pool):
            link = self._links.get(registration.runner_id)
            if link is not None:
                link.registration = registration
                continue
            link = Link(registration, self._tenure.fence, self._dialler, self, self._config.runner_grace_s)
            self._links[registration.runner_id] = link
            self._link_tasks[registration.runner_id] = self._tasks.create_task(link.run())
        self._has_met = True

    async def _listen_for_silence(self) -> None:
        """Let silence grow; a pause of this whole process counts as two ticks, for it was not the runners that were silent."""
        tick_s = self._config.tick_interval_s
        before_s = time.monotonic()
        while True:
            await asyncio.sleep(tick_s)
            now_s = time.monotonic()
            for link in self._links.values():
                link.silence_s += min(now_s - before_s, 2 * tick_s)
                if self._is_dead(link):
                    self._wake.set()
            before_s = now_s

    def _is_dead(self, link: Link) -> bool:
        # An open stream proves that the process is there: a busy machine may keep it from beating for seconds.
        patience_s = self._config.silence_s_max if link.ready else self._config.stream_grace_s
        return link.impostor or link.silence_s > patience_s

    async def _bury_dead(self) -> None:
        dead = {link.runner_id for link in self._links.values() if self._is_dead(link)}
        dead |= {aboard.attempt.runner_id for aboard in self._roster} - set(self._links)
        for runner_id in sorted(dead):
            await self._tenure.bury(runner_id)
            if task := self._link_tasks.pop(runner_id, None):
                task.cancel()
            self._links.pop(runner_id, None)

    async def _evacuate(self) -> None:
        for link in self._links.values():
            keys = [aboard.attempt.key for aboard in self._roster.of(link.runner_id)]
            if link.quarantine and keys:
                _log.warning("a device is faulty", extra={"runner_id": link.runner_id, "generations": len(keys)})
                await self._tenure.give_back(keys)
                for key in keys:
                    link.send(peer.cancel(key))

    # cancels and deadlines

    async def _end_due(self) -> None:
        for due in await self._tenure.due():
            aboard, link = self._roster.get(due.key), self._links.get(due.runner_id)
            if aboard is None or link is None:
                self._tenure.astray = True
            elif due.key not in self._committing:
                self._end(aboard, link)

    def _end(self, aboard: Aboard, link: Link) -> None:
        now_s = time.monotonic()
        message = peer.cancel(aboard.attempt.key)
        if aboard.cancel_first_s is None or now_s - aboard.cancel_last_s > CANCEL_AGAIN_S:
            aboard.cancel_first_s = aboard.cancel_first_s or now_s
            aboard.cancel_last_s = now_s
            link.send(message)
        if now_s - aboard.cancel_first_s > self._config.cancel_grace_s:
            self.heard(link, pb.WorkResponse(cancelled=pb.Cancelled(key=message.cancel.key)))

    # what runners say

    def changed(self) -> None:
        """A link came, went, or its device turned faulty."""
        self._wake.set()

    def joined(self, link: Link, live: frozenset[fleet.Key]) -> None:
        """Adopt what lives there and is current, end what is not, and place again what should be there and is not."""
        aboard = self._roster.of(link.runner_id)
        for key in live - {one.attempt.key for one in aboard}:
            link.send(peer.cancel(key))
        missing = []
        for one in aboard:
            if one.attempt.key in live:
                one.stream = link.stream
            elif one.stream < link.stream and one.attempt.key not in self._committing:
                missing.append(one.attempt.key)
        if missing:
            self._tasks.create_task(self._tenure.persist(lambda: self._tenure.give_back(missing)))

    def heard(self, link: Link, message: pb.WorkResponse) -> None:
        """Note progress and checkpoints; commit an outcome."""
        if message.HasField("progress"):
            self._note(message.progress)
            return
        if message.HasField("checkpoint"):
            self._kept.note(message.checkpoint)
            self._wake.set()
            return
        key = peer.key(getattr(message, str(message.WhichOneof("message"))).key)
        if key not in self._committing:
            self._committing.add(key)
            self._tasks.create_task(self._conclude(link, key, message))

    def _note(self, progress: pb.Progress) -> None:
        key = peer.key(progress.key)
        if aboard := self._roster.get(key):
            done = min(max(progress.steps_done, 0), max(progress.steps_total, 0))
            resumed = min(max(progress.resumed_step, 0), done)
            aboard.steps_done = done
            remaining_us = min(max(progress.remaining_us, 0), REMAINING_US_MAX)
            self._steps[key] = attempts.Step(key, done, remaining_us, resumed)

    async def _conclude(self, link: Link, key: fleet.Key, message: pb.WorkResponse) -> None:
        """Make an outcome durable, then let the runner forget it; one that is not current changes nothing."""
        if message.HasField("suspended"):
            self._kept.note(message.suspended.checkpoint)
        await self._tenure.persist(lambda: self._kept.commit(key))
        step = self._steps.pop(key, None)
        if step is not None and step.resumed_step:  # told of attempts that end soon, too
            await self._tenure.try_(lambda: self._tenure.note([step]))
        ended = await self._tenure.persist(lambda: self._commit(key, message, drains=link.draining))
        self._committing.discard(key)
        if ended is not None:
            link.send(peer.acknowledge(key))

    async def _commit(self, key: fleet.Key, message: pb.WorkResponse, *, drains: bool) -> bool:
        if message.HasField("suspended") or message.failed.error.reason == "RUNNER_DRAINING":
            return bool(await self._tenure.suspend(key, drained=drains))
        if message.HasField("failed") and not message.failed.request_fault:
            return bool(await self._tenure.give_back([key]))
        if message.HasField("completed"):
            return await self._tenure.finish(key, outcomes.succeeded(message.completed))
        if message.HasField("failed"):
            return await self._tenure.finish(key, outcomes.failed(message.failed))
        used = peer.usage(message.cancelled.usage)
        return await self._tenure.finish(key, outcomes.cancelled(used, charging=self._charging))

    # what others see

    async def _publish(self) -> None:
        await self._kept.commit_all()
        if self._steps and self._due_again("progress", self._config.progress_interval_s):
            steps, self._steps = list(self._steps.values()), {}
            await self._tenure.note(steps)
        if self._due_again("status", self._config.renew_interval_s):
            ready = [link for link in self._links.values() if link.ready]
            await self._fleet.save_status(
                {link.runner_id: link.status(len(self._roster.of(link.runner_id))) for link in ready}
            )

    def _due_again(self, what: str, interval_s: float) -> bool:
        now_s = time.monotonic()
        if now_s - self._done_s.get(what, -interval_s) < interval_s:
            return False
        self._done_s[what] = now_s
        return True
