"""Composition root of media_store: configuration -> database, blobs -> signed URLs over HTTP -> servicer -> gRPC server."""

import contextlib
import importlib.resources
from collections.abc import AsyncIterator, Callable

from aiohttp import web

from darkroom import blobs, postgres, rpc, settings, tokens, uploads
from darkroom.api.media_store.v1 import media_service_pb2_grpc
from darkroom.media_store import config as room_config
from darkroom.media_store import loop, sign, store
from darkroom.media_store.servicer import files, rpcs

ROOM = "media_store"


async def serve(config: room_config.Config, *, ready: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or cancellation; `ready` is called with host:port once calls are taken."""
    async with contextlib.AsyncExitStack() as stack:
        database = await stack.enter_async_context(postgres.connect(config.database_url, schema=ROOM))
        await database.migrate(importlib.resources.files("darkroom") / ROOM / "migrations")
        billing = await stack.enter_async_context(
            rpc.channel(
                config.billing_meter_address,
                tls=rpc.tls(config),
                credential=tokens.ServiceCredential(config.service_secret, ROOM),
            )
        )
        media = store.Store(database, _blobs(config))
        signer = sign.Signer(config.service_secret)
        http_url = await stack.enter_async_context(_http(config, files.Files(media, signer).application()))
        tasks = await stack.enter_async_context(rpc.background())
        tasks.create_task(loop.sweep(media, interval_s=config.sweep_interval_s, age_s=config.orphan_age_s))
        servicer = rpcs.MediaServicer(
            media,
            settings=config,
            receiver=uploads.Receiver(
                directory=config.spool_dir,
                uploads_max=config.uploads_max,
                chunk_timeout_s=config.chunk_timeout_s,
            ),
            signer=signer,
            public_url=config.public_url or http_url,
        )
        server = rpc.Server(config, room=ROOM, verify_key=rpc.RemoteKeyVerifier(billing))
        server.add(media_service_pb2_grpc.add_MediaServiceServicer_to_server, servicer)
        await server.run(ready)


@contextlib.asynccontextmanager
async def _http(config: room_config.Config, application: web.Application) -> AsyncIterator[str]:
    """Answer HTTP at config.http_address; lends the URL at which this machine reaches it."""
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=config.shutdown_grace_s)
    await runner.setup()
    try:
        host, _, port = config.http_address.rpartition(":")
        try:
            await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        except (OSError, ValueError) as error:
            raise settings.SettingsError("DARKROOM_HTTP_ADDRESS must be host:port, and not taken") from error
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _blobs(config: room_config.Config) -> blobs.Blobs:
    try:
        return blobs.open_store(config.blob_url)
    except ValueError as error:
        raise settings.SettingsError(f"DARKROOM_BLOB_URL: {error}") from error
