"""The room as a whole: what it does when it starts, and when it starts again."""

import asyncio
import dataclasses
from typing import Any

import pytest

from darkroom import errors, postgres, rpc, settings
from darkroom.api.billing_meter.v1 import account_service_pb2, account_service_pb2_grpc, metering_service_pb2
from darkroom.billing_meter import api_key, server
from darkroom.billing_meter.config import Config
from tests.billing_meter.harness import MODEL, RATES, Meter, refused


async def started(config: Config) -> tuple[asyncio.Task[None], str]:
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(server.serve(config, ready=address.set_result))
    await asyncio.wait([task, address], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
    return task, address.result()


async def stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_catalogues_prices_are_the_first(meter: Meter) -> None:
    prices = (await meter.metering.ListPrices(metering_service_pb2.ListPricesRequest())).prices
    assert [(price.model, price.currency) for price in prices] == [(MODEL, "USD")]
    for field in dataclasses.fields(RATES):
        assert getattr(prices[0], field.name) == getattr(RATES, field.name)


async def test_a_second_start_changes_nothing(meter: Meter, config: Config) -> None:
    before = await meter.price_version_id()
    task, address = await started(config)
    assert address != meter.address
    await stopped(task)
    assert await meter.price_version_id() == before
    assert await meter.database.fetchval("SELECT count(*) FROM api_key") == 1


async def test_replicas_start_together(config: Config) -> None:
    results = await asyncio.gather(*(started(config) for _ in range(3)))
    async with postgres.connect(config.database_url, schema="billing_meter") as database:
        assert await database.fetchval("SELECT count(*) FROM price_version") == 1
    for task, _ in results:
        await stopped(task)


async def test_the_configured_operators_key_opens_operators_calls_alone(meter: Meter) -> None:
    await meter.accounts.ListTenants(account_service_pb2.ListTenantsRequest())
    error = await refused(meter.accounts.VerifyKey(account_service_pb2.VerifyKeyRequest(api_key="dk_")))
    assert isinstance(error, errors.PermissionDenied)


async def test_a_revoked_operators_key_stays_revoked(meter: Meter, config: Config) -> None:
    principal = await meter.verifying.VerifyKey(account_service_pb2.VerifyKeyRequest(api_key=config.operator_key))
    await meter.accounts.RevokeKey(account_service_pb2.RevokeKeyRequest(key_id=principal.key_id))
    task, address = await started(config)
    async with rpc.channel(address, credential=lambda: config.operator_key) as channel:
        accounts: Any = account_service_pb2_grpc.AccountServiceStub(channel)
        error = await refused(accounts.ListTenants(account_service_pb2.ListTenantsRequest()))
    await stopped(task)
    assert isinstance(error, errors.Unauthenticated)


async def test_another_key_of_the_same_prefix_is_refused_at_the_start(meter: Meter, config: Config) -> None:
    clashing = config.operator_key[:16] + api_key.mint().text[16:]
    with pytest.raises(errors.FailedPrecondition, match="DARKROOM_OPERATOR_KEY"):
        await server.serve(dataclasses.replace(config, operator_key=clashing))


def test_a_malformed_operators_key_is_fatal_and_not_repeated(config: Config) -> None:
    with pytest.raises(settings.SettingsError, match="DARKROOM_OPERATOR_KEY") as fatal:
        dataclasses.replace(config, operator_key="dk_secret")
    assert "secret" not in str(fatal.value)


async def test_every_call_needs_a_credential(meter: Meter) -> None:
    async with rpc.channel(meter.address, credential=None) as channel:
        accounts: Any = account_service_pb2_grpc.AccountServiceStub(channel)
        error = await refused(accounts.ListTenants(account_service_pb2.ListTenantsRequest()))
    assert isinstance(error, errors.Unauthenticated)


async def test_a_tenants_key_opens_no_operators_and_no_internal_call(meter: Meter) -> None:
    made = await meter.key(await meter.tenant())
    async with rpc.channel(meter.address, credential=lambda: made.api_key) as channel:
        accounts: Any = account_service_pb2_grpc.AccountServiceStub(channel)
        for call in (
            accounts.ListTenants(account_service_pb2.ListTenantsRequest()),
            accounts.VerifyKey(account_service_pb2.VerifyKeyRequest(api_key=made.api_key)),
        ):
            assert isinstance(await refused(call), errors.PermissionDenied)
