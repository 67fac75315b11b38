"""The owner's work in one pool, for as long as it owns it.

`loop.owner` starts `Pool.run` with the ownership's fence. The pool adopts what the database says is running, keeps a link to each
runner, and again and again: buries the dead, moves work from faulty devices, ends what was cancelled or is late, places what waits,
and publishes progress. Outcomes are committed as they arrive and acknowledged after the commit. A write refused as STALE_OWNER ends it.
"""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, TypeVar

from darkroom import errors, postgres, rpc, tokens
from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.catalog import ModelEntry
from darkroom.scheduler import fair, filters, place, poison, predict, schedule
from darkroom.scheduler.config import Config
from darkroom.scheduler.domain import fleet
from darkroom.scheduler.domain import generation as domain
from darkroom.scheduler.loop import outcomes
from darkroom.scheduler.loop.link import Link
from darkroom.scheduler.loop.roster import Aboard, Roster
from darkroom.scheduler.peers import runner as peer
from darkroom.scheduler.store import attempts as attempt_store
from darkroom.scheduler.store import bell as bells
from darkroom.scheduler.store import fleet as fleet_store
from darkroom.scheduler.store import queue as queue_store

CAPABILITY_SCOPES = ("loras.read", "media.read", "media.write")
PASS_PAUSE_S = 0.01  # rings that come together are one pass
RETRY_S = 0.2
CANCEL_AGAIN_S = 1.0
REMAINING_US_MAX = 30 * 86_400 * 1_000_000

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Setup(NamedTuple):
    """What the owner of pools works with."""

    config: Config
    database: postgres.Database
    catalog: Mapping[str, ModelEntry]
    bell: bells.Bell


class Pool:
    """One ownership of one pool."""

    def __init__(self, setup: Setup, fence: fleet.Fence) -> None:
        config = setup.config
        self._setup = setup
        self._config = config
        self._fence = fence
        self._attempts = attempt_store.Attempts(setup.database)
        self._fleet = fleet_store.Fleet(setup.database)
        self._queue = queue_store.Queue(setup.database, window=config.queue_window)
        self._dialler = peer.Dialler(
            tls=rpc.tls(config), credential=tokens.ServiceCredential(config.service_secret, "scheduler")
        )
        self._needs = {
            name: queue_store.Needs(entry.memory_bytes, round(entry.load_s_guess * 1e6))
            for name, entry in setup.catalog.items()
        }
        self._links: dict[str, Link] = {}
        self._link_tasks: dict[str, asyncio.Task[None]] = {}
        self._roster = Roster()
        self._committing: set[fleet.Key] = set()
        self._steps: dict[fleet.Key, attempt_store.Step] = {}
        self._shares = fair.Shares()
        self._wake = asyncio.Event()
        self._deposed = False
        self._astray = False  # the database may know attempts that the roster does not
        self._looked_s = self._published_s = self._told_s = 0.0

    async def run(self) -> None:
        """Own the pool until deposed or cancelled."""
        for attempt in await self._attempts.running(self._fence.pool):
            self._roster.add(Aboard(attempt, stream=0, work_us=attempt.work_us))
        with self._setup.bell.listen(self._wake.set):
            async with asyncio.TaskGroup() as self._tasks:
                listening = self._tasks.create_task(self._listen_for_silence())
                while not self._deposed:
                    self._wake.clear()
                    await self._try(self._pass)
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

    async def _try(self, act: Callable[[], Awaitable[_T]]) -> _T | None:
        try:
            return await act()
        except errors.DarkroomError as error:
            self._deposed = self._deposed or error.reason == "STALE_OWNER"
            _log.info("a write of the pool was refused", extra={"pool": self._fence.pool, "reason": error.reason})
            return None

    async def _persist(self, act: Callable[[], Awaitable[_T]]) -> _T | None:
        """Try until the database takes it; None only if the pool is another's by now."""
        while not self._deposed:
            if (result := await self._try(act)) is not None:
                return result
            await asyncio.sleep(RETRY_S)
        return None

    async def _pass(self) -> None:
        await self._meet_runners()
        await self._bury_dead()
        await self._evacuate()
        await self._find_astray()
        await self._end_due()
        await self._place()
        await self._publish()

    # the fleet

    async def _meet_runners(self) -> None:
        if not self._due_again("_looked_s", self._config.poll_interval_s):
            return
        for registration in await self._fleet.of_pool(self._fence.pool):
            link = self._links.get(registration.runner_id)
            if link is not None:
                link.registration = registration
                continue
            link = Link(registration, self._fence, self._dialler, self, self._config.runner_grace_s)
            self._links[registration.runner_id] = link
            self._link_tasks[registration.runner_id] = self._tasks.create_task(link.run())

    async def _listen_for_silence(self) -> None:
        """Let silence grow; a pause of this whole process counts as one tick, for it was not the runners that were silent."""
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
        return link.impostor or link.silence_s > self._config.stream_grace_s

    async def _bury_dead(self) -> None:
        dead = {link.runner_id for link in self._links.values() if self._is_dead(link)}
        dead |= {aboard.attempt.runner_id for aboard in self._roster} - set(self._links)
        for runner_id in sorted(dead):
            moved = await self._attempts.lose_runner(self._fence, runner_id, judge=self._judge_death)
            _log.warning("a runner was lost", extra={"runner_id": runner_id, "generations": len(moved)})
            if task := self._link_tasks.pop(runner_id, None):
                task.cancel()
            self._links.pop(runner_id, None)
            for aboard in self._roster.of(runner_id):
                self._roster.drop(aboard.attempt.key)
            self._setup.bell.ring()

    async def _evacuate(self) -> None:
        for link in self._links.values():
            keys = [aboard.attempt.key for aboard in self._roster.of(link.runner_id)]
            if link.quarantine and keys:
                _log.warning("a device is faulty", extra={"runner_id": link.runner_id, "generations": len(keys)})
                await self._give_back(keys)
                for key in keys:
                    link.send(peer.cancel(key))

    async def _find_astray(self) -> None:
        """After a commit whose outcome is unknown: what runs by the database but was never sent is placed again."""
        if not self._astray:
            return
        rows = {attempt.key for attempt in await self._attempts.running(self._fence.pool)}
        known = {aboard.attempt.key for aboard in self._roster}
        for key in known - rows - self._committing:
            self._roster.drop(key)
        if unknown := rows - known:
            await self._give_back(sorted(unknown))
        self._astray = False

    def _judge_death(self, generation: domain.Generation, solo: bool) -> poison.Verdict:
        return poison.after_death(
            attempt=generation.attempt,
            solo=solo,
            solo_deaths=generation.solo_deaths,
            limits=poison.Limits(self._config.attempts_max, self._config.solo_deaths_max),
        )

    def _judge_fault(self, generation: domain.Generation, solo: bool) -> poison.Verdict:
        return poison.after_fault(
            attempt=generation.attempt,
            suspect=generation.suspect,
            solo_deaths=generation.solo_deaths,
            limits=poison.Limits(self._config.attempts_max, self._config.solo_deaths_max),
        )

    async def _give_back(self, keys: list[fleet.Key]) -> list[domain.Generation]:
        moved = await self._attempts.give_back(self._fence, keys, reason=poison.RUNNER_FAULT, judge=self._judge_fault)
        for key in keys:
            self._roster.drop(key)
        self._setup.bell.ring()
        return moved

    # cancels and deadlines

    async def _end_due(self) -> None:
        for due in await self._attempts.due(self._fence.pool):
            aboard, link = self._roster.get(due.key), self._links.get(due.runner_id)
            if aboard is None or link is None:
                self._astray = True
            elif due.key not in self._committing:
                self._end(aboard, link)

    def _end(self, aboard: Aboard, link: Link) -> None:
        now_s = time.monotonic()
        if aboard.cancel_first_s is None or now_s - aboard.cancel_last_s > CANCEL_AGAIN_S:
            aboard.cancel_first_s = aboard.cancel_first_s or now_s
            aboard.cancel_last_s = now_s
            link.send(peer.cancel(aboard.attempt.key))
        if now_s - aboard.cancel_first_s > self._config.cancel_grace_s:
            key = peer.cancel(aboard.attempt.key).cancel.key
            self.heard(link, pb.WorkResponse(cancelled=pb.Cancelled(key=key)))

    # placement

    async def _place(self) -> None:
        views = {link.runner_id: self._view(link) for link in self._links.values() if link.ready}
        models = {name: self._needs[name] for view in views.values() for name in view.models if name in self._needs}
        if not models or all(view.attempts >= self._config.runner_attempts_max for view in views.values()):
            return
        jobs = await self._queue.first(models)
        placements = schedule.plan(jobs, views.values(), self._shares, self._rules(), ageing_s=self._config.ageing_s)
        if not placements:
            return
        try:
            begun = await self._attempts.begin(self._fence, placements)
        except errors.DarkroomError:
            self._astray = True
            raise
        works_us = {
            one.job.generation_id: predict.work_us(one.job, views[one.decision.runner_id]) for one in placements
        }
        for one in begun:
            self._send(one, works_us[one.attempt.key.generation_id])
        self._setup.bell.ring()

    def _view(self, link: Link) -> fleet.Runner:
        view = link.view()
        loaded_bytes = sum(self._needs[name].memory_bytes for name in view.resident if name in self._needs)
        evictable = dataclasses.replace(view, memory_free_bytes=view.memory_free_bytes + loaded_bytes)
        return self._roster.load(evictable)

    def _rules(self) -> place.Rules:
        config = self._config
        weights = {
            "time": config.weight_time,
            "unshared": config.weight_unshared,
            "resident": config.weight_resident,
            "room": config.weight_room,
            "untried": config.weight_untried,
        }
        return place.Rules(filters.Limits(config.heartbeat_stale_s, config.runner_attempts_max), weights)

    def _send(self, begun: fleet.Begun, work_us: int) -> None:
        attempt = begun.attempt
        link = self._links[attempt.runner_id]
        capability = tokens.capability(
            self._config.service_secret,
            tenant_id=attempt.tenant_id,
            generation_id=attempt.key.generation_id,
            scopes=CAPABILITY_SCOPES,
            expires_in_s=self._config.capability_s,
        )
        self._roster.add(Aboard(attempt, stream=link.stream, work_us=work_us))
        link.send(peer.assign(begun, capability=capability))

    # what runners say

    def changed(self, link: Link) -> None:
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
            self._tasks.create_task(self._persist(lambda: self._give_back(missing)))

    def heard(self, link: Link, message: pb.WorkResponse) -> None:
        """Note progress; commit an outcome."""
        kind = message.WhichOneof("message")
        if kind == "progress":
            self._note(message.progress)
            return
        key = peer.key(getattr(message, str(kind)).key)
        if key not in self._committing:
            self._committing.add(key)
            self._tasks.create_task(self._conclude(link, key, message))

    def _note(self, progress: pb.Progress) -> None:
        key = peer.key(progress.key)
        if aboard := self._roster.get(key):
            done = min(max(progress.steps_done, 0), max(progress.steps_total, 0))
            aboard.share_done = done / max(progress.steps_total, 1)
            remaining_us = min(max(progress.remaining_us, 0), REMAINING_US_MAX)
            self._steps[key] = attempt_store.Step(key, done, remaining_us)

    async def _conclude(self, link: Link, key: fleet.Key, message: pb.WorkResponse) -> None:
        changed = await self._persist(lambda: self._commit(key, message))
        self._committing.discard(key)
        if changed is None:
            return
        self._roster.drop(key)
        self._steps.pop(key, None)
        link.send(peer.acknowledge(key))
        self._setup.bell.ring()

    async def _commit(self, key: fleet.Key, message: pb.WorkResponse) -> bool:
        """Make an outcome durable; False if the attempt is not current, which changes nothing."""
        if message.HasField("failed") and not message.failed.request_fault:
            return bool(await self._give_back([key]))
        finished = await self._attempts.finish(self._fence, key, self._ending(key, message))
        return finished is not None

    def _ending(self, key: fleet.Key, message: pb.WorkResponse) -> outcomes.Ending:
        if message.HasField("completed"):
            return outcomes.succeeded(message.completed)
        if message.HasField("failed"):
            return outcomes.failed(message.failed)
        aboard = self._roster.get(key)
        entry = self._setup.catalog.get(aboard.attempt.model) if aboard else None
        return outcomes.cancelled(
            peer.usage(message.cancelled.usage),
            charges_used_steps=entry is not None and entry.charge_cancelled == "used_steps",
        )

    # what others see

    async def _publish(self) -> None:
        if self._steps and self._due_again("_published_s", self._config.progress_interval_s):
            steps, self._steps = list(self._steps.values()), {}
            await self._attempts.progress(steps)
            self._setup.bell.ring()
        if self._due_again("_told_s", self._config.renew_interval_s):
            ready = [link for link in self._links.values() if link.ready]
            await self._fleet.save_status(
                {link.runner_id: link.status(len(self._roster.of(link.runner_id))) for link in ready}
            )

    def _due_again(self, what: str, interval_s: float) -> bool:
        now_s = time.monotonic()
        if now_s - getattr(self, what) < interval_s:
            return False
        setattr(self, what, now_s)
        return True
