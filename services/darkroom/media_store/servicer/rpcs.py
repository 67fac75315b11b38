"""MediaService: each RPC is checked, does one thing in the store, and is translated.

A put goes header -> `check`, `retain`; chunks -> `uploads` (a spooled file); file -> `sniff`; upload -> `store`; whatever fails on the way
leaves nothing. Tenant and generation are those of the credential, never of a message.
"""

import asyncio
import datetime
from collections.abc import AsyncIterator
from typing import TypeAlias

import grpc

from darkroom import clock, rpc, uploads
from darkroom.api.media_store.v1 import media_service_pb2 as pb
from darkroom.api.media_store.v1 import media_service_pb2_grpc
from darkroom.media_store import check, config, domain, retain, sign, sniff, store

_Put: TypeAlias = "grpc.aio.ServicerContext[pb.PutMediaRequest, pb.PutMediaResponse]"
_Get: TypeAlias = "grpc.aio.ServicerContext[pb.GetMediaRequest, pb.GetMediaResponse]"
_Read: TypeAlias = "grpc.aio.ServicerContext[pb.ReadMediaRequest, pb.ReadMediaResponse]"
_Sign: TypeAlias = "grpc.aio.ServicerContext[pb.SignMediaUrlRequest, pb.SignMediaUrlResponse]"
_Delete: TypeAlias = "grpc.aio.ServicerContext[pb.DeleteMediaRequest, pb.DeleteMediaResponse]"


class MediaServicer(media_service_pb2_grpc.MediaServiceServicer):
    """The RPCs of media_store; `public_url` is where `files` is reached."""

    def __init__(
        self,
        media: store.Store,
        *,
        settings: config.Config,
        receiver: uploads.Receiver,
        signer: sign.Signer,
        public_url: str,
    ) -> None:
        self._media = media
        self._settings = settings
        self._receiver = receiver
        self._signer = signer
        self._public_url = public_url.rstrip("/")

    async def PutMedia(self, request_iterator: AsyncIterator[pb.PutMediaRequest], context: _Put) -> pb.PutMediaResponse:
        """Store a piece that is sent as a header and chunks."""
        header = await self._receiver.header(request_iterator)
        check.header(sha256=header.sha256, size_bytes=header.size_bytes, bytes_max=self._settings.media_bytes_max)
        asked = header.retention if header.HasField("retention") else None
        retention_s = retain.media_s(asked, default_s=self._settings.retention_default_s)
        async with self._receiver.receive(request_iterator, header) as spooled:
            caller = rpc.principal()
            upload = domain.Upload(
                tenant_id=caller.tenant_id,
                generation_id=caller.generation_id,
                media_type=await asyncio.to_thread(
                    sniff.media_type,
                    spooled.file,
                    size_bytes=spooled.size_bytes,
                    pixels_max=self._settings.image_pixels_max,
                ),
                sha256=spooled.sha256,
                size_bytes=spooled.size_bytes,
                retention_s=retention_s,
            )
            stored = await self._media.put(upload, lambda: uploads.read(spooled.file))
        return pb.PutMediaResponse(media=_message(stored))

    async def GetMedia(self, request: pb.GetMediaRequest, context: _Get) -> pb.GetMediaResponse:
        """Describe one piece."""
        return pb.GetMediaResponse(media=_message(await self._find(request.media_id)))

    async def ReadMedia(self, request: pb.ReadMediaRequest, context: _Read) -> AsyncIterator[pb.ReadMediaResponse]:
        """Stream one piece: its description, then its bytes from the offset."""
        media = await self._find(request.media_id)
        check.offset(request.offset_bytes, size_bytes=media.size_bytes)
        yield pb.ReadMediaResponse(media=_message(media))
        if request.offset_bytes == media.size_bytes:
            return
        async for chunk in self._media.read(media, offset_bytes=request.offset_bytes):
            yield pb.ReadMediaResponse(chunk=chunk)

    async def SignMediaUrl(self, request: pb.SignMediaUrlRequest, context: _Sign) -> pb.SignMediaUrlResponse:
        """Make a URL that needs no key; it never outlives the piece."""
        expires_in_s = retain.url_s(request.expires_in if request.HasField("expires_in") else None)
        media = await self._find(request.media_id)
        now = clock.utc_now()
        expires_at = now + datetime.timedelta(seconds=expires_in_s)
        if media.expires_at is not None and media.expires_at < expires_at:
            expires_at = media.expires_at
        url = await self._media.url(media, expires_in_s=max(1.0, (expires_at - now).total_seconds()))
        if url is None:
            token = self._signer.make(tenant_id=media.tenant_id, media_id=media.media_id, expires_at=expires_at)
            url = f"{self._public_url}/media/{token}"
        response = pb.SignMediaUrlResponse(url=url)
        response.expires_at.FromDatetime(expires_at)
        return response

    async def DeleteMedia(self, request: pb.DeleteMediaRequest, context: _Delete) -> pb.DeleteMediaResponse:
        """Delete one piece; again is no error."""
        check.media_id(request.media_id)
        await self._media.delete(rpc.principal().tenant_id, request.media_id)
        return pb.DeleteMediaResponse()

    async def _find(self, media_id: str) -> domain.Media:
        check.media_id(media_id)
        return await self._media.get(rpc.principal().tenant_id, media_id)


def _message(media: domain.Media) -> pb.Media:
    message = pb.Media(
        media_id=media.media_id,
        media_type=media.media_type,
        sha256=media.sha256,
        size_bytes=media.size_bytes,
        generation_id=media.generation_id,
    )
    message.created_at.FromDatetime(media.created_at)
    if media.expires_at is not None:
        message.expires_at.FromDatetime(media.expires_at)
    return message
