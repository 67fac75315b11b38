"""The meter's composition root.

A config comes in; PostgreSQL is brought up to date, the catalogue's prices and the configured operator's key are ensured, and the
three services answer until the process is told to stop.
"""

import asyncio
import importlib.resources
from collections.abc import Callable

from darkroom import catalog, page_tokens, postgres, rpc, tokens
from darkroom.api.billing_meter.v1 import (
    account_service_pb2_grpc,
    billing_service_pb2_grpc,
    metering_service_pb2_grpc,
)
from darkroom.billing_meter.config import Config
from darkroom.billing_meter.servicer import accounts, billing, metering
from darkroom.billing_meter.store import keys, prices


async def serve(config: Config, *, ready: Callable[[str], None] | None = None) -> None:
    """Run the room; `ready` is called with its address once it answers."""
    async with postgres.connect(
        config.database_url, schema="billing_meter", pool_size_max=config.database_connections_max
    ) as database:
        await _prepare(database, config)

        async def verify_key(text: str) -> tokens.Principal:
            return await keys.verify(database, text)

        server = rpc.Server(config, room="billing_meter", verify_key=verify_key)
        pages = page_tokens.PageTokens(config.service_secret)
        server.add(
            account_service_pb2_grpc.add_AccountServiceServicer_to_server, accounts.AccountServicer(database, pages)
        )
        server.add(billing_service_pb2_grpc.add_BillingServiceServicer_to_server, billing.BillingServicer(database))
        server.add(metering_service_pb2_grpc.add_MeteringServiceServicer_to_server, metering.MeteringServicer(database))
        await server.run(ready)


async def _prepare(database: postgres.Database, config: Config) -> None:
    entries = await asyncio.to_thread(catalog.load, config.catalog_dir)
    await database.migrate(importlib.resources.files("darkroom.billing_meter") / "migrations")
    await prices.seed(database, {name: entry.price for name, entry in entries.items()})
    if config.operator_key:
        await keys.ensure_operator(database, config.operator_key)
