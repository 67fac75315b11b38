"""Placement in one pool: what waits, onto whom, and the word to the runner.

`loop.pool` calls `place` again and again with its links; the decisions are the verbs' (`schedule`), the commit is the `Tenure`'s, and
what was committed is sent. What each tenant has had is remembered here, for as long as the pool is owned.
"""

import dataclasses
import time
from collections.abc import Collection, Mapping

from darkroom import tokens
from darkroom.scheduler import bucket, fair, filters, place, predict, schedule
from darkroom.scheduler.domain import fleet
from darkroom.scheduler.loop.link import Link
from darkroom.scheduler.loop.roster import Aboard
from darkroom.scheduler.loop.tenure import Setup, Tenure
from darkroom.scheduler.peers import runner as peer
from darkroom.scheduler.store import queue

CAPABILITY_SCOPES = ("loras.read", "media.read", "media.write")
LEARN_S = 1.0


class Placing:
    """Places for one ownership."""

    def __init__(self, setup: Setup, tenure: Tenure) -> None:
        self._config = setup.config
        self._tenure = tenure
        self._queue = queue.Queue(setup.database, window=setup.config.queue_window)
        self._shares = fair.Shares()
        self._needs = {
            name: queue.Needs(entry.memory_bytes, round(entry.load_s_guess * 1e6))
            for name, entry in setup.catalog.items()
        }
        self._load_us = {name: needs.load_us for name, needs in self._needs.items()}
        self._kind_us: Mapping[str, Mapping[str, int]] = {}
        self._learnt_s = 0.0
        self._rules = place.Rules(
            filters.Limits(self._config.heartbeat_stale_s, self._config.runner_attempts_max),
            {
                "time": self._config.weight_time,
                "unshared": self._config.weight_unshared,
                "resident": self._config.weight_resident,
                "room": self._config.weight_room,
                "untried": self._config.weight_untried,
            },
        )

    async def place(self, links: Collection[Link]) -> None:
        """Place what can be placed now."""
        ready = {link.runner_id: link for link in links if link.ready}
        self._learn(ready.values())
        views = {runner_id: self._view(link) for runner_id, link in ready.items()}
        models = {name: self._needs[name] for view in views.values() for name in view.models if name in self._needs}
        if not models or all(view.attempts >= self._config.runner_attempts_max for view in views.values()):
            return
        jobs = await self._queue.first(models)
        placements = schedule.plan(jobs, views.values(), self._shares, self._rules, ageing_s=self._config.ageing_s)
        if not placements:
            return
        works_us = {
            one.job.generation_id: predict.whole_us(one.job, views[one.decision.runner_id]) for one in placements
        }
        for begun in await self._tenure.begin(placements):
            work_us = works_us[begun.attempt.key.generation_id]
            self._send(begun, ready[begun.attempt.runner_id], work_us)

    def _view(self, link: Link) -> fleet.Runner:
        view = link.view()
        evictable_bytes = sum(self._needs[name].memory_bytes for name in view.resident if name in self._needs)
        free_bytes = view.memory_free_bytes + evictable_bytes
        view = dataclasses.replace(view, memory_free_bytes=free_bytes, kind_us=self._kind_us)
        return self._tenure.roster.load(view, self._load_us)

    def _learn(self, links: Collection[Link]) -> None:
        """Put together what the pool's runners measured, about as often as they beat."""
        now_s = time.monotonic()
        if not self._kind_us or now_s - self._learnt_s >= LEARN_S:
            self._kind_us, self._learnt_s = bucket.slowest(link.step_us for link in links), now_s

    def _send(self, begun: fleet.Begun, link: Link, work_us: int) -> None:
        attempt = begun.attempt
        capability = tokens.capability(
            self._config.service_secret,
            tenant_id=attempt.tenant_id,
            generation_id=attempt.key.generation_id,
            scopes=CAPABILITY_SCOPES,
            expires_in_s=self._config.capability_s,
        )
        self._tenure.roster.add(Aboard(attempt, stream=link.stream, work_us=work_us))
        link.send(peer.assign(begun, capability=capability))
