"""Between the protos of the Work stream and the engine's nouns.

An `Assign` comes in and a `Job` goes out; how it went comes in and messages for the owner go out. Nothing here waits or remembers.
Next: `loop.attempt` has the job made, `aboard` passes the messages to the owner.
"""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import json_format

from darkroom import catalog, clock
from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.api.scheduler.v1 import generation_pb2
from darkroom.api.types.v1 import inputs_pb2, media_pb2, money_pb2
from darkroom.model_runner.domain import AttemptFailed, AttemptKey
from darkroom.model_runner.engine import job as engine_job

Media = inputs_pb2.ImageInput | inputs_pb2.VideoInput | inputs_pb2.AudioInput

_PRIORITIES = {
    inputs_pb2.PRIORITY_INTERACTIVE: engine_job.Priority.INTERACTIVE,
    inputs_pb2.PRIORITY_BATCH: engine_job.Priority.BATCH,
}

_TIERS: Mapping[int, engine_job.Tier] = {
    media_pb2.QUALITY_TIER_HIGH: "HIGH",
    media_pb2.QUALITY_TIER_DRAFT: "DRAFT",
}


def key_of(key: pb.AttemptKey) -> AttemptKey:
    """The proto's key as a hashable one."""
    return AttemptKey(key.generation_id, key.owner_epoch, key.attempt)


def key_to(key: AttemptKey) -> pb.AttemptKey:
    """The other way."""
    return pb.AttemptKey(generation_id=key.generation_id, owner_epoch=key.owner_epoch, attempt=key.attempt)


def check(assign: pb.Assign, entry: catalog.ModelEntry | None) -> catalog.ModelEntry:
    """The catalogue's entry for an assignment; AttemptFailed if this runner cannot serve what was accepted."""
    if entry is None:
        raise AttemptFailed("MODEL_NOT_SERVED", "this runner does not serve the model", request_fault=False)
    if entry.revision != assign.model_revision:
        raise AttemptFailed("MODEL_REVISION_MISMATCH", "this runner has another revision of it", request_fault=False)
    if assign.WhichOneof("input") != entry.kind:
        raise AttemptFailed("INPUT_NOT_SERVED", f"the model makes {entry.kind} here", request_fault=False)
    return entry


def media(assign: pb.Assign) -> Media:
    """What an assignment that passed `check` is to make."""
    match assign.WhichOneof("input"):
        case "video":
            return assign.video
        case "audio":
            return assign.audio
        case _:
            return assign.image


def job(assign: pb.Assign, entry: catalog.ModelEntry, adapters: Sequence[engine_job.AdapterUse]) -> engine_job.Job:
    """The engine's job for an assignment, whose defaults and seed the scheduler has filled in."""
    wanted = media(assign)
    return engine_job.Job(
        key=key_of(assign.key).job_key,
        tenant_id=assign.tenant_id,
        model=entry.name,
        prompt=wanted.prompt,
        negative_prompt=wanted.negative_prompt,
        steps=wanted.steps,
        guidance_scale=wanted.guidance_scale,
        adapters=tuple(adapters),
        max_sequence_length=entry.max_sequence_length,
        solo=assign.solo,
        priority=_PRIORITIES.get(assign.priority, engine_job.Priority.STANDARD),
        deadline_us=_deadline_us(assign),
        sampler=wanted.sampler,
        tier=_TIERS.get(wanted.quality, "LOSSLESS"),
        extras=json_format.MessageToDict(wanted.extras),
        **_sizes(wanted),
    )


def _deadline_us(assign: pb.Assign) -> int | None:
    """On the monotonic clock, which no adjustment of the wall clock moves."""
    if not assign.HasField("deadline"):
        return None
    left = assign.deadline.ToDatetime(datetime.UTC) - clock.utc_now()
    return clock.monotonic_us() + left // datetime.timedelta(microseconds=1)


def _sizes(wanted: Media) -> dict[str, Any]:
    """The job's fields that not all kinds of media have."""
    match wanted:
        case inputs_pb2.VideoInput():
            return {
                "width": wanted.width,
                "height": wanted.height,
                "frames": wanted.num_frames,
                "frames_per_second": wanted.frames_per_second,
                "seeds": (wanted.seed,),
            }
        case inputs_pb2.AudioInput():
            return {"width": 0, "height": 0, "duration_us": wanted.duration_us, "seeds": (wanted.seed,)}
        case inputs_pb2.ImageInput():
            return {
                "width": wanted.width,
                "height": wanted.height,
                "strength": wanted.strength if wanted.HasField("strength") else None,
                "seeds": tuple(wanted.seed + index for index in range(max(1, wanted.num_images))),
            }


def scale_of(adapter: inputs_pb2.AdapterRef) -> float:
    """An adapter's strength, 1.0 if unset."""
    return adapter.scale if adapter.HasField("scale") else 1.0


def spec(entry: catalog.ModelEntry) -> engine_job.ModelSpec:
    """What the engine reads of a catalogue entry."""
    return engine_job.ModelSpec(
        name=entry.name,
        family=entry.family,
        path=entry.directory,
        revision=entry.revision,
        guidance=entry.guidance,
        memory_bytes=entry.memory_bytes,
        medium=entry.kind,
    )


def usage(used: engine_job.Usage) -> money_pb2.Usage:
    """What a generation used, as billing counts it."""
    return money_pb2.Usage(
        gpu_time_us=used.device_time_us,
        steps=used.steps,
        images=used.images,
        pixels=used.pixels,
        media_duration_us=used.media_duration_us,
        cached_steps=used.cached_steps,
    )


def stages(engine_stages: Sequence[engine_job.Stage], *, fetch_us: int, store_us: int) -> generation_pb2.StageTimes:
    """Where the time went: the engine's stages, and around them fetching adapters and storing artifacts."""
    spent = {stage.name: stage.wall_us for stage in engine_stages}
    return generation_pb2.StageTimes(
        queued_us=spent.get("wait", 0),
        load_us=spent.get("load", 0),
        adapters_us=spent.get("adapters", 0) + fetch_us,
        prepare_us=spent.get("prepare", 0),
        denoise_us=spent.get("denoise", 0),
        decode_us=spent.get("decode", 0),
        encode_us=spent.get("encode", 0),
        store_us=store_us,
    )


def failed(key: AttemptKey, error: AttemptFailed, used: money_pb2.Usage | None = None) -> pb.WorkResponse:
    """An attempt's failure, as the owner hears of it."""
    return pb.WorkResponse(
        failed=pb.Failed(
            key=key_to(key),
            error=generation_pb2.GenerationError(
                reason=error.reason, message=str(error), retryable=not error.request_fault
            ),
            request_fault=error.request_fault,
            usage=used,
        )
    )


def suspended(key: AttemptKey, checkpoint: pb.Checkpoint | None) -> pb.WorkResponse:
    """An attempt put aside; without a checkpoint of its own, what the owner knows of it holds."""
    return pb.WorkResponse(suspended=pb.Suspended(key=key_to(key), checkpoint=checkpoint))


def cancelled(key: AttemptKey, used: money_pb2.Usage | None = None) -> pb.WorkResponse:
    """An attempt's end by Cancel."""
    return pb.WorkResponse(cancelled=pb.Cancelled(key=key_to(key), usage=used))
