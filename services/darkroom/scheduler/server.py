"""The scheduler's composition root.

A config comes in; PostgreSQL is brought up to date, the catalogue is read, and one replica serves until it is told to stop. Every replica
is the same: all of them accept and watch, and each owns the pools whose lease it holds.
"""

import asyncio
import importlib.resources
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack

import grpc

from darkroom import catalog, page_tokens, postgres, rpc, tokens
from darkroom.api.scheduler.v1 import fleet_service_pb2_grpc, generation_service_pb2_grpc, model_service_pb2_grpc
from darkroom.scheduler.config import Config
from darkroom.scheduler.loop import backlog, forecast, outbox, owner, spending, sweep
from darkroom.scheduler.peers import billing, loras
from darkroom.scheduler.servicer import create, fleet, generation, models
from darkroom.scheduler.store import bell, creates, events, explain, follow, generations
from darkroom.scheduler.store import outbox as outbox_store
from darkroom.scheduler.store import spending as spending_store


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
        tasks = await stack.enter_async_context(rpc.background())
        server = rpc.Server(config, room="scheduler", verify_key=rpc.RemoteKeyVerifier(meter))
        the_bell = bell.Bell(database, interval_s=config.bell_interval_s)
        tasks.create_task(the_bell.run())
        the_forecast = forecast.Forecast(database, config)
        _add_front(server, tasks, config, entries, database, the_bell, billing.Billing(meter), lora_store, the_forecast)
        _add_back(server, tasks, owner.Setup(config, database, entries, the_bell), the_forecast)
        await server.run(ready)


def _channel(config: Config, address: str) -> grpc.aio.Channel:
    credential = tokens.ServiceCredential(config.service_secret, "scheduler")
    return rpc.channel(address, tls=rpc.tls(config), credential=credential)


def _add_front(
    server: rpc.Server,
    tasks: rpc.server.Background,
    config: Config,
    entries: Mapping[str, catalog.ModelEntry],
    database: postgres.Database,
    the_bell: bell.Bell,
    meter: billing.Billing,
    lora_store: grpc.aio.Channel,
    the_forecast: forecast.Forecast,
) -> None:
    """The half that callers see: accept, show, watch, bill."""
    store, changes = generations.Generations(database), events.Events(database)
    commits = creates.Creates(database, the_bell, batch_max=config.create_batch_max)
    funds = spending.Funds(spending_store.Spending(database), meter, config)
    waiting = backlog.Backlog(store, config)
    follower = follow.Follow(changes, the_bell, poll_interval_s=config.poll_interval_s)
    pages = page_tokens.PageTokens(config.service_secret)
    for work in (
        commits.run(),
        funds.run(),
        waiting.run(),
        follower.run(),
        outbox.Relay(outbox_store.Outbox(database), meter, config).run(the_bell),
        sweep.run(database, the_bell, config),
    ):
        tasks.create_task(work)
    acceptance = create.Acceptance(
        models=entries,
        creates=commits,
        prices=billing.Prices(meter, cache_s=config.prices_cache_s),
        loras=loras.Loras(lora_store, service_secret=config.service_secret),
        funds=funds,
        backlog=waiting,
        forecast=the_forecast,
        price_safety_factor=config.price_safety_factor,
    )
    servicer = generation.GenerationServicer(
        acceptance=acceptance,
        store=store,
        changes=changes,
        follower=follower,
        the_bell=the_bell,
        pages=pages,
        explanations=explain.Explain(database, seen_within_s=config.runner_lease_s),
    )
    server.add(generation_service_pb2_grpc.add_GenerationServiceServicer_to_server, servicer)
    server.add(
        model_service_pb2_grpc.add_ModelServiceServicer_to_server, models.ModelServicer(entries, the_forecast, pages)
    )


def _add_back(
    server: rpc.Server, tasks: rpc.server.Background, setup: owner.Setup, the_forecast: forecast.Forecast
) -> None:
    """The half that runners see: register, own pools, place, finish."""
    servicer = fleet.FleetServicer(setup.database, setup.config)
    server.add(fleet_service_pb2_grpc.add_FleetServiceServicer_to_server, servicer)
    tasks.create_task(owner.run(setup))
    tasks.create_task(the_forecast.run())
