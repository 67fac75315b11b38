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
from darkroom.api.types.v1 import inputs_pb2
from darkroom.scheduler import extras

DEADLINE_US_MIN = 1_000
DEADLINE_US_MAX = 7 * 24 * 3600 * 1_000_000
SEED_MAX = 2**62  # image i uses seed + i, which must stay an int64
SEED_DRAWN_BELOW = 2**32  # short enough to read out
SCALE_MAX = 4.0
TAGS_MAX = 16
TAG_KEY_BYTES_MAX = 64
TAG_VALUE_BYTES_MAX = 256


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
    filled.priority = request.priority or inputs_pb2.PRIORITY_STANDARD
    image, defaults = filled.image, entry.defaults
    image.width = image.width or defaults.width
    image.height = image.height or defaults.height
    image.steps = image.steps or defaults.steps
    image.num_images = image.num_images or defaults.num_images
    if not image.HasField("guidance_scale"):
        image.guidance_scale = defaults.guidance_scale
    if not image.HasField("seed"):
        image.seed = secrets.randbelow(SEED_DRAWN_BELOW)
    for adapter in image.adapters:
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
    given = request.WhichOneof("input")
    if entry.kind != "image":
        found.add("model", f"makes {entry.kind}, which this version does not serve")
    elif given is None:
        found.add("image", f"is required: the model {entry.name} makes images")
    elif given != "image":
        found.add(given, f"is not what the model {entry.name} takes: it makes images")
    else:
        _check_image(found, request.image, entry)


def _check_image(found: validation.Violations, image: inputs_pb2.ImageInput, entry: catalog.ModelEntry) -> None:
    limits = entry.limits
    found.text("image.prompt", image.prompt, bytes_max=limits.prompt_bytes_max)
    found.check(bool(image.prompt.strip()), "image.prompt", "is required")
    found.text("image.negative_prompt", image.negative_prompt, bytes_max=limits.prompt_bytes_max)
    _check_number(found, "image.steps", image.steps, limits.steps)
    _check_number(found, "image.num_images", image.num_images, limits.num_images)
    _check_size(found, image, entry)
    if image.HasField("guidance_scale"):
        _check_guidance(found, image.guidance_scale, entry)
    if image.HasField("seed"):
        found.integer("image.seed", image.seed, low=0, high=SEED_MAX)
    for field in ("source_image", "mask_image", "strength"):
        found.check(not image.HasField(field), f"image.{field}", f"is not supported by the model {entry.name}")
    _check_adapters(found, image, entry)
    if image.HasField("extras"):
        extras.check(found, "image.extras", image.extras, entry.extras_schema)


def _check_number(found: validation.Violations, field: str, value: int, limit: catalog.IntRange) -> None:
    if value:  # 0 means the default
        found.integer(field, value, low=limit.min, high=limit.max, multiple_of=limit.multiple_of)


def _check_size(found: validation.Violations, image: inputs_pb2.ImageInput, entry: catalog.ModelEntry) -> None:
    limits = entry.limits
    _check_number(found, "image.width", image.width, limits.width)
    _check_number(found, "image.height", image.height, limits.height)
    width, height = image.width or entry.defaults.width, image.height or entry.defaults.height
    if width <= limits.width.max and height <= limits.height.max:  # else that is what is wrong
        found.check(
            width * height <= limits.pixels_max,
            "image.width",
            f"times image.height must be at most {limits.pixels_max} pixels",
        )


def _check_guidance(found: validation.Violations, value: float, entry: catalog.ModelEntry) -> None:
    if entry.guidance == "none":
        found.add("image.guidance_scale", f"is not supported by the model {entry.name}")
        return
    limit = entry.limits.guidance_scale
    found.finite("image.guidance_scale", value, low=limit.min, high=limit.max)


def _check_adapters(found: validation.Violations, image: inputs_pb2.ImageInput, entry: catalog.ModelEntry) -> None:
    count_max = entry.limits.adapters_max
    if len(image.adapters) > count_max:
        found.add("image.adapters", f"must be at most {count_max}")
        return
    seen: set[str] = set()
    for index, adapter in enumerate(image.adapters):
        path = f"image.adapters[{index}]"
        found.identifier(f"{path}.adapter_id", adapter.adapter_id, "lora")
        found.check(adapter.adapter_id not in seen, f"{path}.adapter_id", "is there twice")
        seen.add(adapter.adapter_id)
        if adapter.HasField("scale"):
            found.finite(f"{path}.scale", adapter.scale, low=-SCALE_MAX, high=SCALE_MAX)
