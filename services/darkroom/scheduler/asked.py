"""What a request asks for, whatever it makes.

A request comes in; its one input goes out, with the numbers that images, videos and sounds have in common. `admit` checks, `estimate`
prices, `bucket` names what its steps are measured under.
"""

from typing import NamedTuple

from darkroom import catalog
from darkroom.api.scheduler.v1 import generation_service_pb2
from darkroom.api.types.v1 import inputs_pb2, media_pb2
from darkroom.scheduler import bucket

Media = inputs_pb2.ImageInput | inputs_pb2.VideoInput | inputs_pb2.AudioInput


class Size(NamedTuple):
    """How much of it: pixels of one frame, frames of one output, the time that they play, and how many outputs."""

    width: int
    height: int
    frames: int
    duration_us: int
    outputs: int

    @property
    def pixels(self) -> int:
        """Of one output, all frames together; 0 for a sound."""
        return self.width * self.height * self.frames


def media(request: generation_service_pb2.CreateGenerationRequest, kind: catalog.Kind) -> Media:
    """Return the request's input, which is of this kind."""
    match kind:
        case "image":
            return request.image
        case "video":
            return request.video
        case "audio":
            return request.audio


def size(wanted: Media) -> Size:
    """Return the size of a filled input."""
    match wanted:
        case inputs_pb2.ImageInput():
            return Size(wanted.width, wanted.height, 1, 0, wanted.num_images)
        case inputs_pb2.VideoInput():
            duration_us = wanted.num_frames * 1_000_000 // wanted.frames_per_second
            return Size(wanted.width, wanted.height, wanted.num_frames, duration_us, 1)
        case inputs_pb2.AudioInput():
            return Size(0, 0, 0, wanted.duration_us, 1)


def quality(wanted: Media) -> str:
    """Return the name of the tier asked for; LOSSLESS if none is, empty for a number that is no tier."""
    told = media_pb2.QualityTier.DESCRIPTOR.values_by_number.get(wanted.quality or media_pb2.QUALITY_TIER_LOSSLESS)
    return told.name.removeprefix("QUALITY_TIER_") if told else ""


def shape(wanted: Media, entry: catalog.ModelEntry) -> str:
    """Name the bucket under which runners measure its steps."""
    return bucket.name(_size(wanted), quality=quality(wanted), guided=_is_guided(wanted, entry))


def _size(wanted: Media) -> str:
    match wanted:
        case inputs_pb2.ImageInput():
            return bucket.size(wanted.width, wanted.height)
        case inputs_pb2.VideoInput():
            return bucket.size(wanted.width, wanted.height, wanted.num_frames)
        case inputs_pb2.AudioInput():
            return bucket.WINDOW


def _is_guided(wanted: Media, entry: catalog.ModelEntry) -> bool:
    """Whether its family predicts twice at each step, with and without the prompt; it must say the same as the family."""
    if entry.guidance == "true_cfg":
        return wanted.guidance_scale > (0 if entry.family == "z_image" else 1)  # Z-Image adds its scale to 1
    scale = dict(wanted.extras.items()).get("true_cfg_scale")
    return isinstance(scale, float) and scale > 1
