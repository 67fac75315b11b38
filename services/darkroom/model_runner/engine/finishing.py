"""Finishing: rows whose steps are done become media, and media become files.

In: the done rows that `batch` picked, with equal batch keys. Out: `Finished` with a generation's last file. Decoding is
the device's work; making files is not, and happens in other threads, while the device goes on. Next: `floor` says the
event.
"""

from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from darkroom.model_runner import batch, fixed_cost
from darkroom.model_runner.engine import encode, errors, together
from darkroom.model_runner.engine.families import Family
from darkroom.model_runner.engine.floor import Floor
from darkroom.model_runner.engine.generation import Generation, Row
from darkroom.model_runner.engine.job import Finished, Output
from darkroom.model_runner.engine.slices import shape
from darkroom.model_runner.engine.state import BatchKey


def key(row: Row) -> Hashable:
    """Return what rows that are decoded together have in common."""
    return "decode", row.state.batch_key


def size(floor: Floor, rows: Sequence[Row], levels: Sequence[batch.Level]) -> int:
    """Return how many of these rows are decoded together, the leader in front; `levels` say how urgent each is."""
    alike = shape(rows[0].state.batch_key, 1)
    return floor.size(floor.decode_costs, alike, key(rows[0]), levels, slower_max=floor.config.urgent_slower_max)


class _Encoding(NamedTuple):
    row: Row
    file: Future[Output]


class Finishing:
    """The files that are being made; belongs to the engine's thread."""

    def __init__(self, floor: Floor) -> None:
        self._floor = floor
        self._encoding: list[_Encoding] = []

    def decode(self, rows: Sequence[Row]) -> None:
        """Decode rows, and have their files made."""
        floor = self._floor
        batch_key = rows[0].state.batch_key
        family = floor.family(batch_key.model)
        for row in rows:
            row.generation.mark("denoise", now_us=floor.now_us())
        tried: list[int] = []

        def forward(some: list[Row]) -> Sequence[encode.Rounded]:
            tried.append(len(some))
            return [encode.rounded(family.medium, media) for media in family.decode([row.state for row in some])]

        decoded = together.run(floor, rows, forward, generation_of=lambda row: row.generation, key=key(rows[0]))
        if len(tried) == 1 and decoded:
            floor.decode_costs.observe(shape(batch_key, tried[0]), sum(done.share_us for done in decoded))
        for row, made, share_us in decoded:
            if floor.charge(row.generation, "decode", share_us):
                row.is_decoded, row.decode_us = True, share_us
                row.generation.mark("decode", now_us=floor.now_us())
                self._encode(row, family, made)
        floor.stirred = True

    def _encode(self, row: Row, family: Family, made: encode.Rounded) -> None:
        file = self._floor.pool.submit(
            encode.output,
            family.medium,
            made,
            seed=row.state.seed,
            frames_per_second=row.generation.job.frames_per_second,
            samples_per_second=family.samples_per_second if family.medium == "audio" else 0,
        )
        file.add_done_callback(lambda _: self._floor.wake())
        self._encoding.append(_Encoding(row, file))

    def collect(self) -> None:
        """Take the files that are ready; a generation ends with its last one."""
        ready = [encoding for encoding in self._encoding if encoding.file.done()]
        self._encoding = [encoding for encoding in self._encoding if not encoding.file.done()]
        for row, file in ready:
            if not self._floor.is_live(row.generation):
                continue
            error = file.exception()
            if isinstance(error, errors.NotFinite) and row.generation.job.adapters:
                error = errors.BadAdapter(f"{error} with these adapters at these scales")  # on any runner
            if isinstance(error, Exception):
                self._floor.fail(row.generation, error)
            else:
                self._take(row, file.result())

    def _take(self, row: Row, output: Output) -> None:
        generation = row.generation
        generation.mark("encode", now_us=self._floor.now_us())
        generation.outputs[row.image] = output._replace(tier=row.state.tier)
        if len(generation.outputs) == len(generation.job.seeds):
            self._learn(generation, row.state.batch_key)
            outputs = tuple(generation.outputs[image] for image in sorted(generation.outputs))
            event = Finished(generation.job.key, outputs, generation.usage(), generation.stages())
            self._floor.end(generation, event)

    def _learn(self, generation: Generation, batch_key: BatchKey) -> None:
        """Note what it took besides its steps; one that came to a cold model, or from a checkpoint, would say something else."""
        if generation.load_us or generation.job.checkpoint is not None:
            return
        outputs = len(generation.outputs)
        encode_us = sum(stage.wall_us for stage in generation.stages() if stage.name == "encode")
        cost = fixed_cost.FixedCost(
            batch_key.model,
            batch_key.shape,
            prepare_us=generation.busy_us["prepare"],
            decode_us=generation.busy_us["decode"] // outputs,
            encode_us=encode_us // outputs,
        )
        self._floor.fixed_costs.observe(cost)
