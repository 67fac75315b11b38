"""Composition root of lora_store: configuration -> database, blobs, catalogue -> servicer -> gRPC server."""

import contextlib
import importlib.resources
from collections.abc import Callable
from pathlib import Path

from darkroom import blobs, catalog, page_tokens, postgres, rpc, settings, tokens, uploads
from darkroom.api.lora_store.v1 import lora_service_pb2_grpc
from darkroom.lora_store import config as room_config
from darkroom.lora_store import loop, servicer, store

ROOM = "lora_store"


async def serve(config: room_config.Config, *, ready: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or cancellation; `ready` is called with host:port once calls are taken."""
    package = importlib.resources.files("darkroom")
    async with contextlib.AsyncExitStack() as stack:
        database = await stack.enter_async_context(postgres.connect(config.database_url, schema=ROOM))
        await database.migrate(package / ROOM / "migrations")
        billing = await stack.enter_async_context(
            rpc.channel(
                config.billing_meter_address,
                tls=rpc.tls(config),
                credential=tokens.ServiceCredential(config.service_secret, ROOM),
            )
        )
        loras = store.Store(database, _blobs(config))
        tasks = await stack.enter_async_context(rpc.background())
        tasks.create_task(loop.sweep(loras, interval_s=config.sweep_interval_s, age_s=config.orphan_age_s))
        server = rpc.Server(config, room=ROOM, verify_key=rpc.RemoteKeyVerifier(billing))
        server.add(lora_service_pb2_grpc.add_LoraServiceServicer_to_server, _servicer(config, loras))
        await server.run(ready)


def _servicer(config: room_config.Config, loras: store.Store) -> servicer.LoraServicer:
    receiver = uploads.Receiver(
        directory=config.spool_dir, uploads_max=config.uploads_max, chunk_timeout_s=config.chunk_timeout_s
    )
    directory = (
        Path(config.catalog_dir) if config.catalog_dir else Path(str(importlib.resources.files("darkroom"))) / "models"
    )
    return servicer.LoraServicer(
        loras,
        receiver=receiver,
        tokens=page_tokens.PageTokens(config.service_secret),
        models=frozenset(catalog.load(directory)),
        bytes_max=config.lora_bytes_max,
    )


def _blobs(config: room_config.Config) -> blobs.Blobs:
    try:
        return blobs.open_store(config.blob_url)
    except ValueError as error:
        raise settings.SettingsError(f"DARKROOM_BLOB_URL: {error}") from error
