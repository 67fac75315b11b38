"""The scheduler's nouns as messages."""

import datetime
from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf import json_format, message, struct_pb2, timestamp_pb2

from darkroom import catalog, pricing
from darkroom.api.scheduler.v1 import generation_pb2, generation_service_pb2, model_service_pb2
from darkroom.api.types.v1 import inputs_pb2, media_pb2, money_pb2
from darkroom.scheduler import asked
from darkroom.scheduler.domain import generation as domain

_Message = TypeVar("_Message", bound=message.Message)
_KINDS = {
    "image": model_service_pb2.MODEL_KIND_IMAGE,
    "video": model_service_pb2.MODEL_KIND_VIDEO,
    "audio": model_service_pb2.MODEL_KIND_AUDIO,
}
_PICTURE_USES: Mapping[catalog.Taken, model_service_pb2.PictureUse.ValueType] = {
    "none": model_service_pb2.PICTURE_USE_NONE,
    "optional": model_service_pb2.PICTURE_USE_OPTIONAL,
    "required": model_service_pb2.PICTURE_USE_REQUIRED,
}


def generation(noun: domain.Generation) -> generation_pb2.Generation:
    """A generation as its tenant sees it."""
    message = generation_pb2.Generation(
        generation_id=noun.generation_id,
        model=noun.model,
        model_revision=noun.model_revision,
        state=state(noun.state),
        priority=inputs_pb2.Priority.Value(f"PRIORITY_{noun.priority.name}"),
        tags=noun.tags,
        created_at=_timestamp(noun.created_at),
        started_at=_timestamp(noun.started_at),
        finished_at=_timestamp(noun.finished_at),
        deadline=_timestamp(noun.deadline),
        attempts=noun.attempt,
        steps_done=noun.steps_done,
        steps_total=noun.steps_total,
        expected_finish_at=_timestamp(noun.expected_finish_at),
        artifacts=[_read(artifact, media_pb2.Artifact()) for artifact in noun.artifacts],
        error=_read(noun.error, generation_pb2.GenerationError()) if noun.error else None,
        usage=_read(noun.usage, money_pb2.Usage()) if noun.usage else None,
        estimate=money_pb2.Money(currency=noun.currency, nanos=noun.estimate_nanos),
        stages=_read(noun.stages, generation_pb2.StageTimes()) if noun.stages else None,
        sequence=noun.sequence,
        runner_id=noun.runner_id or "",
        resumed_step=noun.resumed_step,
    )
    request = generation_service_pb2.CreateGenerationRequest.FromString(noun.input)
    given = request.WhichOneof("input")
    if given is not None:
        wanted = getattr(request, given)
        _shorten(wanted)  # before it is copied: what was once in a message stays in its memory as long as that lives
        getattr(message, given).CopyFrom(wanted)
    return message


def _read(stored: dict[str, Any], into: _Message) -> _Message:
    """Fill in what a row keeps as JSON; fields that a later version has added are left out."""
    return json_format.ParseDict(stored, into, ignore_unknown_fields=True)


def _shorten(wanted: asked.Media) -> None:
    """Tell that pictures were inline, not their bytes: a page of them would be longer than a message may be."""
    for name in ("source_image", "mask_image"):
        if name in wanted.DESCRIPTOR.fields_by_name and getattr(wanted, name).WhichOneof("source") == "inline":
            getattr(wanted, name).inline = b""


def state(noun: domain.State) -> "generation_pb2.GenerationState.ValueType":
    """A state as the proto's enum."""
    return generation_pb2.GenerationState.Value(f"GENERATION_STATE_{noun.value}")


def state_filter(value: "generation_pb2.GenerationState.ValueType") -> str:
    """A proto state as the store's text; unspecified is empty."""
    if value == generation_pb2.GENERATION_STATE_UNSPECIFIED:
        return ""
    return generation_pb2.GenerationState.Name(value).removeprefix("GENERATION_STATE_")


def model(entry: catalog.ModelEntry, *, runners: int, price: pricing.Rates) -> model_service_pb2.Model:
    """A catalogue entry as callers see it, and what it costs."""
    limits, defaults = entry.limits, entry.defaults
    ranges = {name: getattr(limits, name) for name in (*catalog.NUMBERS[entry.kind], "guidance_scale")}
    schema = json_format.ParseDict(dict(entry.extras_schema), struct_pb2.Struct()) if entry.extras_schema else None
    return model_service_pb2.Model(
        name=entry.name,
        kind=_KINDS[entry.kind],
        family=entry.family,
        description=entry.description,
        revision=entry.revision,
        license=entry.license,
        limits={
            **{name: _limit(bounds, whole=name != "guidance_scale") for name, bounds in ranges.items()},
            **({"pixels": model_service_pb2.NumberLimit(min=1, max=limits.pixels_max)} if limits.pixels_max else {}),
        },
        defaults={name: float(getattr(defaults, name)) for name in ranges},
        prompt_bytes_max=limits.prompt_bytes_max,
        adapters_max=limits.adapters_max,
        extras_schema=schema,
        price=model_service_pb2.ModelPrice(
            currency=price.currency,
            nanos_per_image=price.nanos_per_image,
            nanos_per_megapixel=price.nanos_per_megapixel,
            nanos_per_gpu_second=price.nanos_per_gpu_second,
            nanos_per_media_second=price.nanos_per_media_second,
            minimum_nanos=price.minimum_nanos,
        ),
        runners=runners,
        samplers=entry.samplers,
        source_image=_PICTURE_USES[entry.source_image],
        mask_image=_PICTURE_USES[entry.mask_image],
        qualities=[media_pb2.QualityTier.Value(f"QUALITY_TIER_{name}") for name in entry.qualities],
    )


def _limit(bounds: catalog.Range, *, whole: bool) -> model_service_pb2.NumberLimit:
    return model_service_pb2.NumberLimit(min=bounds.min, max=bounds.max, multiple_of=bounds.multiple_of if whole else 0)


def _timestamp(at: datetime.datetime | None) -> timestamp_pb2.Timestamp | None:
    if at is None:
        return None
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(at)
    return message
