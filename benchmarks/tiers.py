"""What do the quality tiers cost in quality, and what do they gain in time?

`python benchmarks/tiers.py [--quick] --json FILE`: pocket-image makes the same 300 prompts (24 if quick) from the same seeds in each
tier, through one engine, which batches as it finds best. The tiers take turns, so that what else the machine does meets them alike. Each
picture is judged, and compared with the one of LOSSLESS. `speedup` is LOSSLESS' seconds by the tier's, `speedup_cpu` the same of seconds
that the process computed, which others on the machine disturb less. A tier that this machine cannot make is made LOSSLESS by the engine:
`made` counts what was made as asked.
"""

import contextlib
import io
import queue
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import _report
import _workload
import numpy as np
import numpy.typing as npt
import PIL.Image
import torch

from darkroom.model_runner.engine import engine, tiers
from darkroom.model_runner.engine import job as engine_job
from darkroom.model_runner.pocket import judge, scenes

TIERS: Sequence[engine_job.Tier] = ("LOSSLESS", "HIGH", "DRAFT")
STEPS = 28
TURN = 60  # pictures of a tier before the next has its turn
WARM = 8
WORSE_MAX = {"LOSSLESS": 0.0, "HIGH": 0.01, "DRAFT": 0.05}  # accuracy that a tier may lose
THREADS = 1  # of one operation; more spin against each other on shared cores

Pixels = npt.NDArray[np.uint8]
Row = dict[str, str | int | float]


class Made(NamedTuple):
    """What a tier made of all prompts, by their numbers, and what it took."""

    finished: dict[int, engine_job.Finished]
    seconds: float
    cpu_seconds: float

    def pixels(self, number: int) -> Pixels:
        """A picture."""
        return np.asarray(PIL.Image.open(io.BytesIO(self.finished[number].outputs[0].data)))

    @property
    def cached_share(self) -> float:
        """Steps that reused most of an earlier one, of all."""
        usages = [each.usage for each in self.finished.values()]
        return sum(usage.cached_steps for usage in usages) / sum(usage.steps for usage in usages)


class Painter:
    """One engine with pocket-image."""

    def __init__(self, rows_max: int) -> None:
        self._events: queue.SimpleQueue[engine_job.Event] = queue.SimpleQueue()
        config = engine_job.EngineConfig(rows_live_max=rows_max)
        self._engine = engine.Engine(config, [_workload.spec()], self._events.put)
        self._keys = 0

    def close(self) -> None:
        """Stop the engine."""
        self._engine.close()

    def paint(self, prompts: Sequence[tuple[int, str]], tier: engine_job.Tier) -> Made:
        """Make numbered prompts' pictures; the number is the seed."""
        numbers = dict[str, int]()
        started_s, started_cpu_s = time.monotonic(), time.process_time()
        for number, prompt in prompts:
            self._keys += 1
            numbers[str(self._keys)] = number
            self._engine.submit(_job(str(self._keys), prompt, number, tier))
        finished = dict[int, engine_job.Finished]()
        while len(finished) < len(numbers):
            event = self._events.get()
            if isinstance(event, engine_job.Finished):
                finished[numbers[event.job_key]] = event
            elif isinstance(event, engine_job.Failed):
                raise RuntimeError(f"a generation failed: {event.message}")
        return Made(finished, time.monotonic() - started_s, time.process_time() - started_cpu_s)


def main() -> None:
    """Make, judge, compare, report."""
    arguments = _report.arguments((__doc__ or "").splitlines()[0])
    torch.set_num_threads(THREADS)
    count = 24 if arguments.quick else 300
    wanted = scenes.evaluation_scenes(count, combinations_held_out=False)
    prompts = list(enumerate(scenes.prompt(scene) for scene in wanted))
    with painter(rows_max=2 * TURN) as paint:
        made = by_turns(paint, prompts)
    rows = [_row(tier, made, prompts) for tier in TIERS]
    figures = {f"{name}_{row['tier']}".lower(): float(row[name]) for row in rows for name in row if name != "tier"}
    missed = [str(row["tier"]) for row in rows if not _is_good(row, rows[0])]
    _report.finish(
        arguments.json,
        name="tiers",
        figures=figures,
        tables={f"{count} prompts, {STEPS} steps": rows},
        notes=f"Worse than it may be: {', '.join(missed) or 'none'}.",
    )


@contextlib.contextmanager
def painter(*, rows_max: int) -> Iterator[Painter]:
    """Start an engine and close it afterwards."""
    started = Painter(rows_max)
    try:
        yield started
    finally:
        started.close()


def by_turns(paint: Painter, prompts: Sequence[tuple[int, str]]) -> dict[str, Made]:
    """Make all prompts in each tier, so many at a time; what is made first, to load and to measure batches, does not count."""
    for tier in TIERS:
        paint.paint(prompts[:WARM], tier)
    made = {tier: Made({}, 0.0, 0.0) for tier in TIERS}
    for start in range(0, len(prompts), TURN):
        for tier in TIERS:
            turn = paint.paint(prompts[start : start + TURN], tier)
            sofar = made[tier]
            made[tier] = Made(
                sofar.finished | turn.finished, sofar.seconds + turn.seconds, sofar.cpu_seconds + turn.cpu_seconds
            )
            print(f"\r{tier}: {len(made[tier].finished)}/{len(prompts)}   ", end="", flush=True)
    print()
    return {str(tier): each for tier, each in made.items()}


def _job(key: str, prompt: str, seed: int, tier: engine_job.Tier) -> engine_job.Job:
    return engine_job.Job(
        key=key,
        tenant_id="benchmark",
        model=_workload.POCKET.name,
        prompt=prompt,
        width=_workload.SIDE_PX,
        height=_workload.SIDE_PX,
        steps=STEPS,
        guidance_scale=_workload.GUIDANCE_SCALE,
        seeds=(seed,),
        max_sequence_length=_workload.TEXT_TOKENS,
        tier=tier,
    )


def _row(tier: str, made: dict[str, Made], prompts: Sequence[tuple[int, str]]) -> Row:
    ours, reference = made[tier], made["LOSSLESS"]
    psnrs_db = [_psnr_db(ours.pixels(number), reference.pixels(number)) for number, _ in prompts]
    return {
        "tier": tier,
        "made": sum(ours.finished[number].outputs[0].tier == tier for number, _ in prompts),
        "accuracy": sum(judge.judge(prompt, ours.pixels(number)).ok for number, prompt in prompts) / len(prompts),
        "speedup": reference.seconds / ours.seconds,
        "speedup_cpu": reference.cpu_seconds / ours.cpu_seconds,
        "pictures_per_s": len(prompts) / ours.seconds,
        "psnr_median_db": statistics.median(psnrs_db),
        "psnr_p05_db": float(np.percentile(psnrs_db, 5)),
        "cached_share": ours.cached_share,
    }


def _is_good(row: Row, reference: Row) -> bool:
    """Whether a tier is as accurate as it must be, and HIGH as like LOSSLESS as the engine promises."""
    accurate = float(row["accuracy"]) >= float(reference["accuracy"]) - WORSE_MAX[str(row["tier"])] - 1e-9
    return accurate and (row["tier"] != "HIGH" or float(row["psnr_median_db"]) >= tiers.HIGH_PSNR_DB_MIN)


def _psnr_db(one: Pixels, other: Pixels) -> float:
    """Return the likeness of two pictures, 100 dB at most."""
    error = float(((one.astype(np.float64) - other) ** 2).mean())
    return 10 * float(np.log10(255**2 / max(error, 255**2 * 1e-10)))


if __name__ == "__main__":
    main()
