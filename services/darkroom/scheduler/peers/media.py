"""media_store as admission and the sweep need it: is this picture the tenant's? And: delete a checkpoint that nobody needs.

Asked with a capability of the tenant, so that media_store itself decides; another tenant's picture is NotFound there as here.
"""

import asyncio
from collections.abc import Mapping

import grpc

from darkroom import errors, rpc, tokens
from darkroom.api.media_store.v1 import media_service_pb2, media_service_pb2_grpc

CAPABILITY_S = 60.0
TIMEOUT_S = 10.0
PICTURE_TYPES = ("image/png", "image/jpeg", "image/webp")
PICTURE_BYTES_MAX = 64 << 20  # as much as a runner holds in memory

_Metadata = tuple[tuple[str, str], ...]


class Media:
    """Calls MediaService over one channel."""

    def __init__(self, channel: grpc.aio.Channel, *, service_secret: str) -> None:
        self._stub = media_service_pb2_grpc.MediaServiceStub(channel)
        self._secret = service_secret

    async def check_pictures(self, media_ids: Mapping[str, str], *, tenant_id: str, generation_id: str) -> None:
        """Return if the tenant has a picture for every field; NotFound, or InvalidArgument that names the fields, otherwise."""
        if not media_ids:
            return
        bearer = self._bearer("media.read", tenant_id=tenant_id, generation_id=generation_id)
        pieces = await asyncio.gather(*(self._get(media_id, bearer) for media_id in media_ids.values()))
        violations = [
            errors.FieldViolation(field, f"must name a PNG, JPEG or WEBP file of at most {PICTURE_BYTES_MAX} bytes")
            for field, piece in zip(media_ids, pieces, strict=True)
            if piece.media_type not in PICTURE_TYPES or piece.size_bytes > PICTURE_BYTES_MAX
        ]
        if violations:
            raise errors.InvalidArgument(violations)

    async def _get(self, media_id: str, bearer: _Metadata) -> media_service_pb2.Media:
        request = media_service_pb2.GetMediaRequest(media_id=media_id)
        try:
            return (await self._stub.GetMedia(request, metadata=bearer, timeout=TIMEOUT_S)).media
        except grpc.aio.AioRpcError as error:
            raise rpc.from_rpc_error(error) from error

    def _bearer(self, scope: str, *, tenant_id: str, generation_id: str) -> _Metadata:
        capability = tokens.capability(
            self._secret,
            tenant_id=tenant_id,
            generation_id=generation_id,
            scopes=(scope,),
            expires_in_s=CAPABILITY_S,
        )
        return (("authorization", f"Bearer {capability}"),)

    async def delete(self, media_id: str, *, tenant_id: str, generation_id: str) -> None:
        """Delete one piece; one that is not there is no error."""
        try:
            await self._stub.DeleteMedia(
                media_service_pb2.DeleteMediaRequest(media_id=media_id),
                metadata=self._bearer("media.write", tenant_id=tenant_id, generation_id=generation_id),
                timeout=TIMEOUT_S,
            )
        except grpc.aio.AioRpcError as error:
            known = rpc.from_rpc_error(error)
            if not isinstance(known, errors.NotFound):
                raise known from error
