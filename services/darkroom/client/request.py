"""What a caller says first: where the platform is, and what to make.

Plain values come in, an `Endpoints` or a request message goes out; `aio` and `blocking` send it.
"""

import dataclasses
import uuid

from darkroom.api.scheduler.v1 import generation_service_pb2 as service_pb
from darkroom.api.types.v1 import inputs_pb2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Endpoints:
    """host:port of each public room; the three TLS paths (PEM files) where the platform wants mutual TLS."""

    scheduler_address: str
    lora_store_address: str
    media_store_address: str
    billing_meter_address: str
    tls_cert_path: str = ""
    tls_key_path: str = ""
    tls_ca_path: str = ""


def image(model: str, prompt: str, *, idempotency_key: str = "") -> service_pb.CreateGenerationRequest:
    """A request for one image with the model's defaults; set further fields of `.image` before sending it."""
    key = idempotency_key or uuid.uuid4().hex
    return service_pb.CreateGenerationRequest(
        model=model, image=inputs_pb2.ImageInput(prompt=prompt), idempotency_key=key
    )


def video(model: str, prompt: str, *, idempotency_key: str = "") -> service_pb.CreateGenerationRequest:
    """A request for a video, likewise; its fields are those of `.video`."""
    key = idempotency_key or uuid.uuid4().hex
    return service_pb.CreateGenerationRequest(
        model=model, video=inputs_pb2.VideoInput(prompt=prompt), idempotency_key=key
    )


def audio(model: str, prompt: str, *, idempotency_key: str = "") -> service_pb.CreateGenerationRequest:
    """A request for a sound, likewise; its fields are those of `.audio`."""
    key = idempotency_key or uuid.uuid4().hex
    return service_pb.CreateGenerationRequest(
        model=model, audio=inputs_pb2.AudioInput(prompt=prompt), idempotency_key=key
    )
