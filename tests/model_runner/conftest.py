"""A runner's neighbours, started once for each test: lora_store, media_store, and who hears registrations."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from darkroom import errors, rpc, tokens
from darkroom.api.scheduler.v1 import fleet_service_pb2_grpc
from darkroom.lora_store import config as lora_config
from darkroom.lora_store import server as lora_server
from darkroom.media_store import config as media_config
from darkroom.media_store import server as media_server
from darkroom.model_runner.engine.job import ModelSpec
from tests.model_runner import world as worlds
from tests.model_runner.engine.conftest import one_thread, specs

__all__ = ["one_thread", "specs"]


@pytest.fixture
def catalog_dir(tmp_path: Path, specs: dict[str, ModelSpec]) -> Path:
    """A catalogue of one tiny model."""
    folder = tmp_path / "catalogue"
    folder.mkdir()
    return worlds.write_catalogue(folder, specs["true_cfg"])


@pytest.fixture
async def world(
    tmp_path: Path, catalog_dir: Path, database_url: str, service_secret: str
) -> AsyncIterator[worlds.World]:
    stores: dict[str, Any] = {
        "service_secret": service_secret,
        "database_url": database_url,
        "billing_meter_address": "127.0.0.1:1",  # asked about API keys alone, and there are none here
        "blob_url": (tmp_path / "blobs").as_uri(),
        "shutdown_grace_s": 0.0,
    }
    registrations = worlds.Registrations()
    async with contextlib.AsyncExitStack() as stack:
        loras = lora_config.Config(**stores, catalog_dir=str(catalog_dir))
        addresses = {
            "lora_store_address": await stack.enter_async_context(worlds.serving(lora_server.serve, loras)),
            "media_store_address": await stack.enter_async_context(
                worlds.serving(media_server.serve, media_config.Config(**stores))
            ),
        }
        config = worlds.World(service_secret, {**addresses, "scheduler_address": "-"}, catalog_dir, registrations)
        scheduler = rpc.Server(config.config(), room="scheduler", verify_key=_no_keys)
        scheduler.add(fleet_service_pb2_grpc.add_FleetServiceServicer_to_server, registrations)
        addresses["scheduler_address"] = await scheduler.start()
        stack.push_async_callback(scheduler.stop)
        yield worlds.World(service_secret, addresses, catalog_dir, registrations)


async def _no_keys(api_key: str) -> tokens.Principal:
    raise errors.Unauthenticated("no keys here")
