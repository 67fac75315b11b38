"""Catalogue entries for the tests of videos and sounds."""

from typing import Any

from darkroom import catalog, pricing
from darkroom.api.scheduler.v1 import generation_service_pb2 as pb
from darkroom.catalog import IntRange, Range

VIDEO, AUDIO = "test-video", "test-audio"


def _entry(
    name: str, kind: Any, limits: dict[str, Any], defaults: dict[str, Any], **changes: Any
) -> catalog.ModelEntry:
    return catalog.ModelEntry(
        name=name,
        kind=kind,
        family="pipeline",
        description="",
        path="weights",
        revision="sha256:" + "0" * 64,
        license="",
        guidance="true_cfg",
        max_sequence_length=16,
        memory_bytes=1,
        defaults=catalog.Defaults(steps=10, guidance_scale=3.0, **defaults),
        limits=catalog.Limits(
            steps=IntRange(min=1, max=100),
            guidance_scale=Range(min=1.0, max=20.0),
            prompt_bytes_max=2000,
            adapters_max=2,
            **limits,
        ),
        price=pricing.Rates(nanos_per_megapixel=1_000_000, nanos_per_gpu_second=1_000),
        step_cost_us_guess=1_000,
        load_s_guess=1.0,
        **changes,
    )


def video(*, kind: Any = "video", **changes: Any) -> catalog.ModelEntry:
    """Return a model of videos from text or from a picture, 4k + 1 frames."""
    side = IntRange(min=64, max=128, multiple_of=16)
    limits = {
        "width": side,
        "height": side,
        "num_frames": IntRange(min=5, max=81, multiple_of=4),
        "frames_per_second": IntRange(min=1, max=60),
        "pixels_max": 128 * 128 * 41,
    }
    defaults = {"width": 64, "height": 64, "num_frames": 9, "frames_per_second": 8}
    return _entry(VIDEO, kind, limits, defaults, **({"source_image": "optional"} | changes))


def audio() -> catalog.ModelEntry:
    """Return a model of sounds up to 47 s."""
    limits = {"duration_us": IntRange(min=1_000_000, max=47_000_000)}
    return _entry(AUDIO, "audio", limits, {"duration_us": 10_000_000})


def request(model: str, **fields: Any) -> pb.CreateGenerationRequest:
    return pb.CreateGenerationRequest(model=model, idempotency_key="key", **fields)
