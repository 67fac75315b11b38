"""Does anything grow or get stuck while people ask, change their minds and push LoRAs for half an hour?

`python benchmarks/soak.py [--quick] --json FILE`: one platform, as `darkroom up` starts it, 16 callers who make pictures of random sizes,
steps, priorities and LoRAs and cancel every second one at a random moment, and one who pushes LoRAs and deletes them while they are in
use; 30 minutes (20 seconds if quick). Printed for each room: its memory after the first 5 minutes (when every cache is warm) and at the
end; and whatever did not end, was billed wrongly or is still held. The baseline is each room's own memory at 5 minutes. Memory is what
a process has resident. Pages of files count as the most that there were of them: of torch's libraries 80 MiB come and go as the
system sees fit.
"""

import asyncio
import collections
import itertools
import pathlib
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

import _report
import _workload
import diffusers

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from darkroom import client, errors
from darkroom.api.scheduler.v1 import fleet_service_pb2 as fleet_pb
from darkroom.api.scheduler.v1 import generation_pb2
from darkroom.api.scheduler.v1 import generation_service_pb2 as service_pb
from darkroom.api.types.v1 import inputs_pb2
from tests import platforms
from tests.journeys import load

CALLERS = 16
SECONDS, QUICK_SECONDS = 1800, 20
WARM_SHARE = 1 / 6  # of the whole: caches fill, allocators find their size
SAMPLE_S = 1.0
CANCELLED_SHARE = 0.5
SIDES_PX, STEPS = (64, 96, 128), (1, 4, 8, 28)
GROWTH_MAX = 0.05
ROOMS = ("scheduler", "lora_store", "media_store", "billing_meter", "model_runner")


class Sample(NamedTuple):
    """Resident memory of each room, in MiB, some seconds after the start."""

    at_s: float
    rooms_mib: dict[str, float]
    own_mib: dict[str, float]
    """Of it, what is of no file."""


class Crowd:
    """Callers of one tenant, and what became of what they asked for."""

    def __init__(self, darkroom: client.AsyncClient, *, until_s: float) -> None:
        self.darkroom, self.until_s = darkroom, until_s
        self.adapters: list[str] = []
        self.shots: list[load.Shot] = []
        self.refused = 0

    async def call(self, number: int) -> None:
        """One caller: ask, perhaps cancel, wait for the end, ask again."""
        draw = random.Random(number)
        for turn in itertools.count():
            if time.monotonic() > self.until_s:
                return
            started_s = time.monotonic()
            try:
                created = await self.darkroom.create(self._request(draw, f"{number}-{turn}"))
            except errors.NotFound:  # a LoRA that the other one has just deleted
                self.refused += 1
                continue
            if draw.random() < CANCELLED_SHARE:
                await asyncio.sleep(draw.uniform(0, 3))
                await self.darkroom.cancel(created.generation_id)
            ended = await load.follow(self.darkroom, created.generation_id)
            self.shots.append(load.Shot(ended, time.monotonic() - started_s))

    async def push(self, files: Sequence[pathlib.Path]) -> None:
        """Push LoRAs, keep four, delete the oldest whether it is in use or not."""
        for number, path in enumerate(itertools.cycle(files)):
            if time.monotonic() > self.until_s:
                return
            pushed = await self.darkroom.push_lora(path, name=f"soak-{number}", base_model=load.MODEL)
            self.adapters.append(pushed.lora.adapter_id)
            if len(self.adapters) > 4:
                await self.darkroom.delete_lora(self.adapters.pop(0))
            await asyncio.sleep(1)

    def _request(self, draw: random.Random, key: str) -> service_pb.CreateGenerationRequest:
        uses = [inputs_pb2.AdapterRef(adapter_id=draw.choice(self.adapters))] if self.adapters else []
        image = inputs_pb2.ImageInput(
            prompt=f"a {draw.choice(load.COLOURS)} circle on a white background",
            width=draw.choice(SIDES_PX),
            height=draw.choice(SIDES_PX),
            steps=draw.choice(STEPS),
            seed=draw.randrange(2**31),
            guidance_scale=draw.choice((1.0, 3.0)),
            num_images=draw.choice((1, 1, 1, 2)),
            adapters=uses if draw.random() < _workload.ADAPTED_SHARE else [],
        )
        return service_pb.CreateGenerationRequest(
            model=load.MODEL, image=image, idempotency_key=key, priority=draw.choice((1, 2, 3))
        )


class Soaked(NamedTuple):
    """What a soak leaves."""

    samples: list[Sample]
    crowd: Crowd
    stuck: int
    verdict: str


def main() -> None:
    """Soak, then look at what is left."""
    options = _report.arguments(__doc__)
    seconds = QUICK_SECONDS if options.quick else SECONDS
    with tempfile.TemporaryDirectory(prefix="darkroom-soak-") as folder:
        files = _adapter_files(pathlib.Path(folder))
        with platforms.running(pathlib.Path(folder) / "home") as platform:
            samples, crowd, stuck, verdict = asyncio.run(soak(platform, files, seconds=seconds))
    growths = {room: growth(samples, room, seconds=seconds) for room in ROOMS}
    states = [generation_pb2.GenerationState.Name(shot.generation.state) for shot in crowd.shots]
    counts = {
        state.removeprefix("GENERATION_STATE_").lower(): float(states.count(state)) for state in sorted(set(states))
    }
    figures = {f"growth_{room}": value for room, value in growths.items()}
    failed = [
        shot.generation for shot in crowd.shots if shot.generation.state == generation_pb2.GENERATION_STATE_FAILED
    ]
    reasons = collections.Counter(generation.error.reason for generation in failed)
    figures |= {f"failed_{reason.lower()}": float(count) for reason, count in reasons.items()}
    figures |= {"generations": float(len(states)), "refused": float(crowd.refused), "stuck": float(stuck)} | counts
    rows = [
        {
            "room": room,
            "mib_warm": _level(samples, room, seconds, last=False),
            "mib_end": _level(samples, room, seconds, last=True),
            "growth": value,
        }
        for room, value in growths.items()
    ]
    title = f"memory of each room over {seconds} s, growth at most {GROWTH_MAX:.0%}"
    minutes, own = (
        [{"minute": round(sample.at_s / 60), **getattr(sample, held)} for sample in samples[:: round(60 / SAMPLE_S)]]
        for held in ("rooms_mib", "own_mib")
    )
    books = [{"figure": name, "value": value} for name, value in figures.items()]
    _report.finish(
        options.json,
        name="soak",
        figures=figures,
        tables={title: rows, "MiB by the minute": minutes, "of no file": own, "all": books},
        notes=verdict,
    )


async def soak(platform: platforms.Platform, files: Sequence[pathlib.Path], *, seconds: float) -> Soaked:
    """Let the crowd at the platform, then look at its books."""
    tenant = await load.new_tenant(platform, "soak")
    async with platform.tenant(tenant.api_key) as darkroom:
        started_s = time.monotonic()
        crowd, samples = Crowd(darkroom, until_s=started_s + seconds), list[Sample]()
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(_watch(platform, crowd, samples, started_s))
            async with asyncio.TaskGroup() as callers:
                for number in range(CALLERS):
                    callers.create_task(crowd.call(number))
                callers.create_task(crowd.push(files))
            watching.cancel()
        stuck = len([each async for each in darkroom.all() if each.state not in client.FINAL_STATES])
        stuck += sum(runner.generations for runner in await _settled(platform))
        try:
            await load.audit(platform, tenant, crowd.shots)
        except AssertionError as error:
            return Soaked(samples, crowd, stuck, f"the books are wrong: {error}")
    return Soaked(samples, crowd, stuck, "every bill and every sum of the ledger is right")


async def _settled(platform: platforms.Platform) -> list[fleet_pb.Runner]:
    """The runners, once their last heartbeats are in."""
    await asyncio.sleep(2)
    async with platform.operator() as operator:
        return list(await operator.runners())


async def _watch(platform: platforms.Platform, crowd: Crowd, samples: list[Sample], started_s: float) -> None:
    files_mib = dict.fromkeys(ROOMS, 0.0)
    while True:
        seen = {room: [each.memory_info() for each in platform.rooms(room)] for room in ROOMS}
        own_mib = {room: sum(each.rss - each.shared for each in seen[room]) / 2**20 for room in ROOMS}
        files_mib = {room: max(files_mib[room], sum(each.shared for each in seen[room]) / 2**20) for room in ROOMS}
        memory = {room: own_mib[room] + files_mib[room] for room in ROOMS}
        samples.append(Sample(time.monotonic() - started_s, memory, own_mib))
        left_s = max(0.0, crowd.until_s - time.monotonic())
        print(
            f"\r  {len(crowd.shots)} generations, {left_s:.0f} s left, runner {memory['model_runner']:.0f} MiB  ",
            end="",
            flush=True,
        )
        await asyncio.sleep(SAMPLE_S)


def growth(samples: Sequence[Sample], room: str, *, seconds: float) -> float:
    """How much more a room holds at the end than when it was warm; medians of stretches, since requests come and go."""
    return _level(samples, room, seconds, last=True) / _level(samples, room, seconds, last=False) - 1


def _level(samples: Sequence[Sample], room: str, seconds: float, *, last: bool) -> float:
    first_s, until_s = (
        (seconds * (1 - WARM_SHARE), float("inf")) if last else (seconds * WARM_SHARE, seconds * WARM_SHARE * 2)
    )
    return statistics.median(sample.rooms_mib[room] for sample in samples if first_s <= sample.at_s < until_s)


def _adapter_files(folder: pathlib.Path) -> list[pathlib.Path]:
    denoiser = diffusers.FluxTransformer2DModel.from_pretrained(_workload.POCKET / "transformer")
    return [use.path for use in _workload.write_adapters(folder, denoiser)]


if __name__ == "__main__":
    main()
