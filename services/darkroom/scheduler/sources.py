"""The pictures that a request starts from, against what its model takes.

An input comes in; violations that name the field go out, the media that it names, and the steps that its picture leaves. Part of
`admit`; `create` asks media_store for the media, and `estimate` reckons with the steps.
"""

import io
from collections.abc import Mapping

from darkroom import catalog, image_files, validation
from darkroom.api.types.v1 import inputs_pb2, media_pb2
from darkroom.scheduler import asked

INLINE_BYTES_MAX = 256 * 1024
_STRENGTH_MIN, _STRENGTH_MAX = 0.001, 1.0  # nothing left of the steps would leave nothing to make

STRENGTHS: Mapping[str, tuple[float, float]] = {"stable_diffusion": (0.8, 1.0), "sdxl": (0.3, 0.9999)}
"""Of the families in which a picture leaves whole steps alone: when none is given, without and with a mask; as the family has it."""

FLOW_STRENGTHS: Mapping[str, float] = {"flux": 0.6, "z_image": 0.6, "qwen_image": 0.6}
"""Of those in which it enters within a step, by models that make pictures without one too; as the family has it."""


def check(found: validation.Violations, wanted: asked.Media, entry: catalog.ModelEntry) -> None:
    """Add what is wrong with `source_image`, `mask_image` and `strength`."""
    if isinstance(wanted, inputs_pb2.AudioInput):
        return
    _check_picture(found, wanted, "source_image", entry.source_image, entry)
    if not isinstance(wanted, inputs_pb2.ImageInput):
        return
    _check_picture(found, wanted, "mask_image", entry.mask_image, entry)
    if wanted.HasField("mask_image") and entry.mask_image != "none":
        found.check(wanted.HasField("source_image"), "image.mask_image", "is of use only with source_image")
    if wanted.HasField("strength"):
        if entry.source_image == "none":
            found.add("image.strength", f"is not supported by the model {entry.name}")
            return
        found.check(wanted.HasField("source_image"), "image.strength", "is of use only with source_image")
        found.finite("image.strength", wanted.strength, low=_STRENGTH_MIN, high=_STRENGTH_MAX)
    _check_steps_left(found, wanted, entry)


def stored(wanted: asked.Media, kind: catalog.Kind) -> dict[str, str]:
    """Return the ids of the pictures that media_store must have, by field."""
    return {
        f"{kind}.{name}.media_id": getattr(wanted, name).media_id
        for name in ("source_image", "mask_image")
        if name in wanted.DESCRIPTOR.fields_by_name and getattr(wanted, name).media_id
    }


def steps_left(wanted: asked.Media, entry: catalog.ModelEntry) -> int:
    """Return the steps that one output of a filled input takes: those after its picture enters, or all where none does."""
    if not isinstance(wanted, inputs_pb2.ImageInput) or not wanted.HasField("source_image"):
        return wanted.steps
    if entry.family in STRENGTHS:
        return int(wanted.steps * _strength(wanted, STRENGTHS[entry.family][wanted.HasField("mask_image")]))
    if entry.family in FLOW_STRENGTHS:
        return wanted.steps - int(wanted.steps - wanted.steps * _strength(wanted, _flow_strength(entry)))
    return wanted.steps


def _strength(wanted: inputs_pb2.ImageInput, own: float) -> float:
    return wanted.strength if wanted.HasField("strength") else own


def _flow_strength(entry: catalog.ModelEntry) -> float:
    """Return what holds when none is given: FLUX.1 Fill and Kontext, known by what they need and do not take, begin with noise."""
    whole = entry.family == "flux" and (entry.source_image == "required" or entry.mask_image == "none")
    return 1.0 if whole else FLOW_STRENGTHS[entry.family]


def _check_steps_left(found: validation.Violations, wanted: inputs_pb2.ImageInput, entry: catalog.ModelEntry) -> None:
    """Check that a picture leaves a step to take; families refuse it too, but only when they run."""
    if entry.family not in STRENGTHS or not wanted.HasField("source_image"):
        return
    own = STRENGTHS[entry.family][wanted.HasField("mask_image")]
    if 0 < _strength(wanted, own) * (wanted.steps or entry.defaults.steps) < 1:
        found.add("image.strength", f"times image.steps must be at least 1; it is {own:g} unless given")


def _check_picture(
    found: validation.Violations,
    wanted: inputs_pb2.ImageInput | inputs_pb2.VideoInput,
    name: str,
    taken: catalog.Taken,
    entry: catalog.ModelEntry,
) -> None:
    field = f"{entry.kind}.{name}"
    if not wanted.HasField(name):  # type: ignore[arg-type]  # a name that both messages have, or the image's own
        found.check(taken != "required", field, f"is required by the model {entry.name}")
    elif taken == "none":
        found.add(field, f"is not supported by the model {entry.name}")
    else:
        _check_ref(found, field, getattr(wanted, name))


def _check_ref(found: validation.Violations, field: str, ref: media_pb2.MediaRef) -> None:
    match ref.WhichOneof("source"):
        case "media_id":
            found.identifier(f"{field}.media_id", ref.media_id, "med")
        case "inline":
            _check_inline(found, f"{field}.inline", ref.inline)
        case "url":
            found.add(f"{field}.url", "is not supported by this version: put the picture into media_store")
        case None:
            found.add(field, "must name its media")


def _check_inline(found: validation.Violations, field: str, data: bytes) -> None:
    """Check what media_store checks of an uploaded one: a picture that is whole and not too large."""
    side_max, pixels_max = image_files.SOURCE_SIDE_MAX, image_files.SOURCE_PIXELS_MAX
    size = image_files.size(io.BytesIO(data), size_bytes=len(data)) if len(data) <= INLINE_BYTES_MAX else None
    if size is None:
        found.add(field, f"must be a whole PNG, JPEG or WEBP file of {INLINE_BYTES_MAX} bytes at most")
    elif not size.is_within(side_max=side_max, pixels_max=pixels_max):
        found.add(field, f"must be at most {side_max} pixels wide and high, and {pixels_max} pixels in all")
