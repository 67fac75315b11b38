"""media_store as the sweep needs it: bytes of checkpoints that nobody needs any more are deleted.

Asked with a capability of the tenant whose they are, since media_store deletes for tenants alone.
"""

import grpc

from darkroom import errors, rpc, tokens
from darkroom.api.media_store.v1 import media_service_pb2, media_service_pb2_grpc

CAPABILITY_S = 60.0
TIMEOUT_S = 10.0


class Media:
    """Calls MediaService over one channel."""

    def __init__(self, channel: grpc.aio.Channel, *, service_secret: str) -> None:
        self._stub = media_service_pb2_grpc.MediaServiceStub(channel)
        self._secret = service_secret

    async def delete(self, media_id: str, *, tenant_id: str, generation_id: str) -> None:
        """Delete one piece; one that is not there is no error."""
        capability = tokens.capability(
            self._secret,
            tenant_id=tenant_id,
            generation_id=generation_id,
            scopes=("media.write",),
            expires_in_s=CAPABILITY_S,
        )
        try:
            await self._stub.DeleteMedia(
                media_service_pb2.DeleteMediaRequest(media_id=media_id),
                metadata=(("authorization", f"Bearer {capability}"),),
                timeout=TIMEOUT_S,
            )
        except grpc.aio.AioRpcError as error:
            known = rpc.from_rpc_error(error)
            if not isinstance(known, errors.NotFound):
                raise known from error
