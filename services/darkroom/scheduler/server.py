"""The scheduler's composition root.

A config comes in; PostgreSQL is brought up to date, the catalogue is read, and one replica serves until it is told to stop. Every replica
is the same: all of them accept and watch, and each owns the pools whose lease it holds.
"""

import asyncio
import importlib.resources
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import NamedTuple

import grpc

from darkroom import catalog, page_tokens, postgres, rpc, tokens
from darkroom.api.scheduler.v1 import fleet_service_pb2_grpc, generation_service_pb2_grpc, model_service_pb2_grpc
from darkroom.scheduler import price
from darkroom.scheduler.config import Config
from darkroom.scheduler.loop import backlog, forecast, outbox, owner, spending, sweep
from darkroom.scheduler.peers import billing, loras, media
from darkroom.scheduler.servicer import create, fleet, generation, models, quote
from darkroom.scheduler.store import bell, creates, events, explain, follow, generations
from darkroom.scheduler.store import outbox as outbox_store
from darkroom.scheduler.store import spending as spending_store


class _Parts(NamedTuple):
    """What both halves are built from."""

    config: Config
    models: Mapping[str, catalog.ModelEntry]
    database: postgres.Database
    bell: bell.Bell
    forecast: forecast.Forecast
    meter: billing.Billing
    prices: billing.Prices
    loras: loras.Loras
    media: media.Media


async def serve(config: Config, *, ready: Callable[[str], None] | None = None) -> None:
    """Run one replica; `ready` is called with its address once it answers."""
    entries = await asyncio.to_thread(catalog.load, config.catalog_dir)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(
            postgres.connect(config.database_url, schema="scheduler", pool_size_max=config.database_connections_max)
        )
        await database.migrate(importlib.resources.files("darkroom.scheduler") / "migrations")
        meter = await stack.enter_async_context(_channel(config, config.billing_meter_address))
        lora_store = await stack.enter_async_context(_channel(config, config.lora_store_address))
        media_store = await stack.enter_async_context(_channel(config, config.media_store_address))
        tasks = await stack.enter_async_context(rpc.background())
        books = billing.Billing(meter)
        parts = _Parts(
            config=config,
            models=entries,
            database=database,
            bell=bell.Bell(database, interval_s=config.bell_interval_s),
            forecast=forecast.Forecast(database, config, entries),
            meter=books,
            prices=billing.Prices(books, cache_s=config.prices_cache_s),
            loras=loras.Loras(lora_store, service_secret=config.service_secret),
            media=media.Media(media_store, service_secret=config.service_secret),
        )
        server = rpc.Server(config, room="scheduler", verify_key=rpc.RemoteKeyVerifier(meter))
        tasks.create_task(parts.bell.run())
        tasks.create_task(parts.forecast.run())
        _add_front(server, tasks, parts)
        _add_back(server, tasks, parts)
        await server.run(ready)


def _channel(config: Config, address: str) -> grpc.aio.Channel:
    credential = tokens.ServiceCredential(config.service_secret, "scheduler")
    return rpc.channel(address, tls=rpc.tls(config), credential=credential)


def _add_front(server: rpc.Server, tasks: rpc.server.Background, parts: _Parts) -> None:
    """The half that callers see: accept, show, watch, bill."""
    config, database = parts.config, parts.database
    changes, pages = events.Events(database), page_tokens.PageTokens(config.service_secret)
    follower = follow.Follow(changes, parts.bell, poll_interval_s=config.poll_interval_s)
    store = generations.Generations(database, charging=price.charging(parts.models.values()))
    servicer = generation.GenerationServicer(
        acceptance=_acceptance(tasks, parts),
        quotes=_quotes(parts),
        store=store,
        changes=changes,
        follower=follower,
        the_bell=parts.bell,
        pages=pages,
        explanations=explain.Explain(database, seen_within_s=config.runner_lease_s),
    )
    catalogue = models.ModelServicer(parts.models, parts.forecast, parts.prices, pages)
    server.add(generation_service_pb2_grpc.add_GenerationServiceServicer_to_server, servicer)
    server.add(model_service_pb2_grpc.add_ModelServiceServicer_to_server, catalogue)
    tasks.create_task(follower.run())
    tasks.create_task(outbox.Relay(outbox_store.Outbox(database), parts.meter, config).run(parts.bell))
    tasks.create_task(sweep.run(store, database, parts.bell, parts.media, config))


def _acceptance(tasks: rpc.server.Background, parts: _Parts) -> create.Acceptance:
    config, database = parts.config, parts.database
    commits = creates.Creates(database, parts.bell, batch_max=config.create_batch_max)
    funds = spending.Funds(spending_store.Spending(database), parts.meter, config)
    waiting = backlog.Backlog(generations.Generations(database), config)
    for work in (commits.run(), funds.run(), waiting.run()):
        tasks.create_task(work)
    return create.Acceptance(
        models=parts.models,
        creates=commits,
        prices=parts.prices,
        stores=create.Stores(loras=parts.loras, media=parts.media),
        funds=funds,
        backlog=waiting,
        forecast=parts.forecast,
        price_safety_factor=config.price_safety_factor,
    )


def _quotes(parts: _Parts) -> quote.Quotes:
    return quote.Quotes(
        models=parts.models,
        prices=parts.prices,
        stores=create.Stores(loras=parts.loras, media=parts.media),
        forecast=parts.forecast,
        price_safety_factor=parts.config.price_safety_factor,
    )


def _add_back(server: rpc.Server, tasks: rpc.server.Background, parts: _Parts) -> None:
    """The half that runners see: register, own pools, place, finish."""
    servicer = fleet.FleetServicer(parts.database, parts.config)
    server.add(fleet_service_pb2_grpc.add_FleetServiceServicer_to_server, servicer)
    tasks.create_task(owner.run(owner.Setup(parts.config, parts.database, parts.models, parts.bell)))
