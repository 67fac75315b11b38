import contextlib

import pytest

from darkroom import errors, ids, rpc, settings, tokens
from darkroom.api.media_store.v1 import media_service_pb2, media_service_pb2_grpc
from darkroom.scheduler.peers import media


class Store(media_service_pb2_grpc.MediaServiceServicer):
    """A media_store of one piece."""

    def __init__(self):
        self.pieces = {("ten_1", "med_1")}
        self.is_away = False
        self.told = media_service_pb2.Media(media_type="image/png", size_bytes=media.PICTURE_BYTES_MAX)

    async def GetMedia(self, request, context):
        if (rpc.principal().tenant_id, request.media_id) not in self.pieces:
            raise errors.NotFound("media", request.media_id)
        return media_service_pb2.GetMediaResponse(media=self.told)

    async def DeleteMedia(self, request, context):
        if self.is_away:
            raise errors.Unavailable("away")
        piece = (rpc.principal().tenant_id, request.media_id)
        if piece not in self.pieces:
            raise errors.NotFound("media", request.media_id)
        self.pieces.remove(piece)
        return media_service_pb2.DeleteMediaResponse()


async def no_keys(api_key):
    raise errors.Unauthenticated("no keys here")


@contextlib.asynccontextmanager
async def serving(store, service_secret):
    server = rpc.Server(settings.Room(service_secret=service_secret), room="media_store", verify_key=no_keys)
    server.add(media_service_pb2_grpc.add_MediaServiceServicer_to_server, store)
    address = await server.start()
    credential = tokens.ServiceCredential(service_secret, "scheduler")
    async with rpc.channel(address, credential=credential) as channel:
        yield media.Media(channel, service_secret=service_secret)
    await server.stop()


async def test_a_piece_is_deleted_as_its_tenant_and_again_is_no_error(service_secret):
    store, generation_id = Store(), ids.new("gen")
    async with serving(store, service_secret) as peer:
        await peer.delete("med_1", tenant_id="ten_2", generation_id=generation_id)
        assert store.pieces
        for _ in range(2):
            await peer.delete("med_1", tenant_id="ten_1", generation_id=generation_id)
        assert not store.pieces
        store.is_away = True
        with pytest.raises(errors.Unavailable):
            await peer.delete("med_1", tenant_id="ten_1", generation_id=generation_id)


async def test_only_the_tenants_own_pictures_pass(service_secret):
    store = Store()
    async with serving(store, service_secret) as peer:

        async def check(tenant_id, **media_ids):
            await peer.check_pictures(media_ids, tenant_id=tenant_id, generation_id=ids.new("gen"))

        await check("ten_1")
        await check("ten_1", source="med_1", mask="med_1")
        for tenant_id, media_id in (("ten_2", "med_1"), ("ten_1", "med_2")):
            with pytest.raises(errors.NotFound):
                await check(tenant_id, source=media_id)
        for told in ({"media_type": "video/mp4"}, {"size_bytes": media.PICTURE_BYTES_MAX + 1}):
            store.told.MergeFrom(media_service_pb2.Media(**told))
            with pytest.raises(errors.InvalidArgument) as refused:
                await check("ten_1", source="med_1")
            assert [violation.field for violation in refused.value.violations] == ["source"]
            store.told.media_type = "image/png"
