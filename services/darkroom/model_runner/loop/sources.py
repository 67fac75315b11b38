"""The pictures that a generation starts from, fetched before the engine sees it.

An input comes in; the files go out, or AttemptFailed says that they cannot be had. Next: `attempt` gives them to the engine with the job,
whose family decodes them.
"""

from typing import NamedTuple

from darkroom import errors
from darkroom.api.types.v1 import media_pb2
from darkroom.model_runner import messages, peers
from darkroom.model_runner.domain import AttemptFailed

BYTES_MAX = 64 << 20
"""Of one picture's file, which is held in memory: media_store takes films, too."""


class Pictures(NamedTuple):
    """Files by their field, None where none was named."""

    source_image: bytes | None
    mask_image: bytes | None


async def read(media: messages.Media, store: peers.Media, capability: str) -> Pictures:
    """Fetch an input's pictures."""
    found = {
        name: await _read(name, getattr(media, name), store, capability)
        for name in Pictures._fields
        if name in media.DESCRIPTOR.fields_by_name and media.HasField(name)  # type: ignore[arg-type]  # one that it has
    }
    return Pictures(found.get("source_image"), found.get("mask_image"))


async def _read(name: str, ref: media_pb2.MediaRef, store: peers.Media, capability: str) -> bytes:
    if ref.WhichOneof("source") == "inline":
        return ref.inline
    try:
        return await store.read(ref.media_id, capability, bytes_max=BYTES_MAX)
    except errors.NotFound as error:
        raise AttemptFailed("MEDIA_NOT_FOUND", str(error), request_fault=True) from error
    except errors.InvalidArgument as error:
        raise AttemptFailed("REQUEST_INVALID", f"{name}.{error}", request_fault=True) from error
    except errors.DarkroomError as error:
        raise AttemptFailed("MEDIA_FETCH_FAILED", str(error), request_fault=False) from error
