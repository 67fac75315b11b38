"""Whether a request may come in at all, before anything is stored or loaded.

A CreateGenerationRequest and the catalogue come in; either one `errors.InvalidArgument` names every field that is wrong, or the
request goes out with defaults and seed filled in, as it will be stored and run. `estimate` prices it next.
"""

import hashlib
import secrets
from collections.abc import Mapping

from google.protobuf import duration_pb2

from darkroom import catalog, errors, validation
from darkroom.api.scheduler.v1 import generation_service_pb2
from darkroom.api.types.v1 import inputs_pb2, media_pb2
from darkroom.scheduler import asked, extras, sources

DEADLINE_US_MIN = 1_000
DEADLINE_US_MAX = 7 * 24 * 3600 * 1_000_000
SEED_MAX = 2**62  # image i uses seed + i, which must stay an int64
SEED_DRAWN_BELOW = 2**32  # short enough to read out
SCALE_MAX = 4.0
TAGS_MAX = 16
TAG_KEY_BYTES_MAX = 64
TAG_VALUE_BYTES_MAX = 256

_MADE = {"image": "images", "video": "videos", "audio": "audio"}


def params_sha256(request: generation_service_pb2.CreateGenerationRequest) -> bytes:
    """Digest what was asked for, without its idempotency key: the same request has the same digest in every process."""
    params = generation_service_pb2.CreateGenerationRequest()
    params.CopyFrom(request)
    params.ClearField("idempotency_key")
    return hashlib.sha256(params.SerializeToString(deterministic=True)).digest()


def check(
    request: generation_service_pb2.CreateGenerationRequest, models: Mapping[str, catalog.ModelEntry]
) -> catalog.ModelEntry:
    """Return the model asked for if every field is acceptable; InvalidArgument with all that are not, else NotFound."""
    found = validation.Violations()
    found.name("model", request.model)
    found.choice("priority", request.priority, inputs_pb2.Priority.values())
    found.idempotency_key("idempotency_key", request.idempotency_key)
    if request.HasField("deadline"):
        _check_deadline(found, request.deadline)
    _check_tags(found, request.tags)
    entry = models.get(request.model)
    if entry is not None:
        _check_input(found, request, entry)
    found.raise_if_any()
    if entry is None:
        raise errors.NotFound("model", request.model)
    return entry


def fill(
    request: generation_service_pb2.CreateGenerationRequest, entry: catalog.ModelEntry
) -> generation_service_pb2.CreateGenerationRequest:
    """Copy a checked request with the model's defaults in place of what was left open, and a seed drawn if none was given."""
    filled = generation_service_pb2.CreateGenerationRequest()
    filled.CopyFrom(request)
    filled.DiscardUnknownFields()  # what no check has seen is neither stored nor told
    filled.priority = request.priority or inputs_pb2.PRIORITY_STANDARD
    wanted = asked.media(filled, entry.kind)
    for name in catalog.NUMBERS[entry.kind]:
        setattr(wanted, name, getattr(wanted, name) or getattr(entry.defaults, name))
    if not wanted.HasField("guidance_scale"):
        wanted.guidance_scale = entry.defaults.guidance_scale
    wanted.quality = wanted.quality or media_pb2.QUALITY_TIER_LOSSLESS
    if not wanted.HasField("seed"):
        wanted.seed = secrets.randbelow(SEED_DRAWN_BELOW)
    for adapter in wanted.adapters:
        adapter.scale = adapter.scale if adapter.HasField("scale") else 1.0
    return filled


def deadline_us(request: generation_service_pb2.CreateGenerationRequest) -> int | None:
    """The deadline in microseconds after acceptance, or None."""
    return _microseconds(request.deadline) if request.HasField("deadline") else None


def _microseconds(duration: duration_pb2.Duration) -> int:
    return duration.seconds * 1_000_000 + duration.nanos // 1_000


def _check_deadline(found: validation.Violations, deadline: duration_pb2.Duration) -> None:
    valid = 0 <= deadline.nanos < 10**9 and DEADLINE_US_MIN <= _microseconds(deadline) <= DEADLINE_US_MAX
    found.check(valid, "deadline", "must be from 1 millisecond to 7 days, or unset")


def _check_tags(found: validation.Violations, tags: Mapping[str, str]) -> None:
    found.check(len(tags) <= TAGS_MAX, "tags", f"must be at most {TAGS_MAX}")
    for key, value in tags.items():
        found.text("tags", key, bytes_max=TAG_KEY_BYTES_MAX, required=True)
        found.text("tags", value, bytes_max=TAG_VALUE_BYTES_MAX)


def _check_input(
    found: validation.Violations, request: generation_service_pb2.CreateGenerationRequest, entry: catalog.ModelEntry
) -> None:
    given, makes = request.WhichOneof("input"), f"the model {entry.name} makes {_MADE[entry.kind]}"
    if given is None:
        found.add(entry.kind, f"is required: {makes}")
    elif given != entry.kind:
        found.add(given, f"is not what the model {entry.name} takes: it makes {_MADE[entry.kind]}")
    else:
        _check_media(found, asked.media(request, entry.kind), entry)


def _check_media(found: validation.Violations, wanted: asked.Media, entry: catalog.ModelEntry) -> None:
    limits, kind = entry.limits, entry.kind
    found.text(f"{kind}.prompt", wanted.prompt, bytes_max=limits.prompt_bytes_max)
    found.check(bool(wanted.prompt.strip()), f"{kind}.prompt", "is required")
    found.text(f"{kind}.negative_prompt", wanted.negative_prompt, bytes_max=limits.prompt_bytes_max)
    for name in catalog.NUMBERS[kind]:
        _check_number(found, f"{kind}.{name}", getattr(wanted, name), getattr(limits, name))
    if not isinstance(wanted, inputs_pb2.AudioInput):
        _check_size(found, wanted, entry)
    if wanted.HasField("guidance_scale"):
        _check_guidance(found, wanted.guidance_scale, entry)
    if wanted.HasField("seed"):
        found.integer(f"{kind}.seed", wanted.seed, low=0, high=SEED_MAX)
    _check_way(found, wanted, entry)
    sources.check(found, wanted, entry)
    _check_adapters(found, wanted, entry)
    if wanted.HasField("extras"):
        extras.check(found, f"{kind}.extras", wanted.extras, entry.extras_schema)


def _check_number(found: validation.Violations, field: str, value: int, limit: catalog.IntRange) -> None:
    if value:  # 0 means the default
        found.integer(field, value, low=limit.min, high=limit.max)
        if limit.min <= value <= limit.max and (value - limit.min) % limit.multiple_of:
            start = "" if limit.min % limit.multiple_of == 0 else f"{limit.min} plus "
            found.add(field, f"must be {start}a multiple of {limit.multiple_of}")


def _check_size(
    found: validation.Violations, wanted: inputs_pb2.ImageInput | inputs_pb2.VideoInput, entry: catalog.ModelEntry
) -> None:
    limits, defaults, kind = entry.limits, entry.defaults, entry.kind
    width, height = wanted.width or defaults.width, wanted.height or defaults.height
    frames, factors = 1, f"times {kind}.height"
    if isinstance(wanted, inputs_pb2.VideoInput):
        frames, factors = wanted.num_frames or defaults.num_frames, f"{factors} and {kind}.num_frames"
    if width <= limits.width.max and height <= limits.height.max:  # else that is what is wrong
        within = width * height * frames <= limits.pixels_max
        found.check(within, f"{kind}.width", f"{factors} must be at most {limits.pixels_max} pixels")


def _check_way(found: validation.Violations, wanted: asked.Media, entry: catalog.ModelEntry) -> None:
    """Check how it is to be computed: the sampler, the quality tier."""
    if wanted.sampler and wanted.sampler not in entry.samplers:
        unsupported = f"is not supported by the model {entry.name}"
        found.add(
            f"{entry.kind}.sampler", f"must be one of {', '.join(entry.samplers)}" if entry.samplers else unsupported
        )
    if wanted.quality and asked.quality(wanted) not in entry.qualities:
        found.add(f"{entry.kind}.quality", f"must be one of {', '.join(entry.qualities)}")


def _check_guidance(found: validation.Violations, value: float, entry: catalog.ModelEntry) -> None:
    field = f"{entry.kind}.guidance_scale"
    if entry.guidance == "none":
        found.add(field, f"is not supported by the model {entry.name}")
        return
    limit = entry.limits.guidance_scale
    found.finite(field, value, low=limit.min, high=limit.max)


def _check_adapters(found: validation.Violations, wanted: asked.Media, entry: catalog.ModelEntry) -> None:
    count_max, field = entry.limits.adapters_max, f"{entry.kind}.adapters"
    if len(wanted.adapters) > count_max:
        found.add(field, f"must be at most {count_max}")
        return
    seen: set[str] = set()
    for index, adapter in enumerate(wanted.adapters):
        path = f"{field}[{index}]"
        found.identifier(f"{path}.adapter_id", adapter.adapter_id, "lora")
        found.check(adapter.adapter_id not in seen, f"{path}.adapter_id", "is there twice")
        seen.add(adapter.adapter_id)
        if adapter.HasField("scale"):
            found.finite(f"{path}.scale", adapter.scale, low=-SCALE_MAX, high=SCALE_MAX)
