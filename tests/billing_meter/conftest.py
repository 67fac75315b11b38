"""A meter that listens on loopback over a fresh database."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from darkroom import embedded_postgres, postgres, rpc, tokens
from darkroom.api.billing_meter.v1 import (
    account_service_pb2_grpc,
    billing_service_pb2_grpc,
    metering_service_pb2_grpc,
)
from darkroom.billing_meter import api_key, server
from darkroom.billing_meter.config import Config
from tests.billing_meter.harness import CATALOGUE, MODEL, Meter


@pytest.fixture(scope="session")
def shared_database_url(postgres_server: embedded_postgres.EmbeddedPostgres) -> str:
    postgres_server.create_database("billing_meter")
    return postgres_server.url("billing_meter")


@pytest.fixture
async def database_url(shared_database_url: str) -> AsyncIterator[str]:
    """A database without the meter's schema; dropping a schema is much faster than making a database."""
    yield shared_database_url
    connection = await asyncpg.connect(shared_database_url)
    await connection.execute("DROP SCHEMA IF EXISTS billing_meter CASCADE")
    await connection.close()


@pytest.fixture
def catalog_dir(tmp_path: Path) -> Path:
    (tmp_path / f"{MODEL}.yaml").write_text(CATALOGUE)
    return tmp_path


@pytest.fixture
def operator_key() -> str:
    return api_key.mint().text


@pytest.fixture
def config(database_url: str, service_secret: str, catalog_dir: Path, operator_key: str) -> Config:
    return Config(
        database_url=database_url,
        service_secret=service_secret,
        catalog_dir=catalog_dir,
        operator_key=operator_key,
        shutdown_grace_s=0.5,
    )


@pytest.fixture
async def meter(config: Config) -> AsyncIterator[Meter]:
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(server.serve(config, ready=address.set_result))
    await asyncio.wait([task, address], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
    operator = rpc.channel(address.result(), credential=lambda: config.operator_key)
    scheduler = rpc.channel(address.result(), credential=tokens.ServiceCredential(config.service_secret, "scheduler"))
    async with postgres.connect(config.database_url, schema="billing_meter") as database:
        running = Meter(
            address=address.result(),
            database=database,
            accounts=account_service_pb2_grpc.AccountServiceStub(operator),
            operator_billing=billing_service_pb2_grpc.BillingServiceStub(operator),
            metering=metering_service_pb2_grpc.MeteringServiceStub(scheduler),
            verifying=account_service_pb2_grpc.AccountServiceStub(scheduler),
            channels=[operator, scheduler],
        )
        yield running
    await asyncio.gather(*(channel.close() for channel in running.channels))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
