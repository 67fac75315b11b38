"""Bad input, over all services: INVALID_ARGUMENT and the field's name, and nothing is stored."""

import grpc
import pytest

from darkroom import rpc
from tests import platforms
from tests.journeys import bad_meter, bad_scheduler, bad_stores, load
from tests.journeys import doors as all_doors
from tests.journeys.bad import Bad

TABLE = [*bad_scheduler.TABLE, *bad_stores.TABLE, *bad_meter.TABLE]


def named(bad: Bad) -> str:
    return f"{bad.method.partition('/')[2]}-{bad.field}"


def test_the_table_is_over_all_services() -> None:
    assert len(TABLE) >= 60
    covered = {all_doors.path_of(bad.method).rpartition("/")[0] for bad in TABLE}
    assert covered == {path.rpartition("/")[0] for path in rpc.methods.table()}


@pytest.mark.parametrize("bad", TABLE, ids=named)
async def test_bad_input_names_its_field(doors: all_doors.Doors, anna: load.Tenant, bad: Bad) -> None:
    credentials = {"tenant": anna.api_key, "operator": doors.operator_key, "internal": doors.internal()}
    refusal = await doors.call(all_doors.path_of(bad.method), *bad.sent, credential=credentials[bad.who])
    assert refusal is not None
    assert (refusal.code, bad.field in refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, True), refusal


async def test_bad_input_leaves_nothing_behind(platform: platforms.Platform, doors: all_doors.Doors) -> None:
    tenant = await load.new_tenant(platform, "blunderer")
    credentials = {"tenant": tenant.api_key, "operator": doors.operator_key, "internal": doors.internal()}
    for bad in TABLE:
        await doors.call(all_doors.path_of(bad.method), *bad.sent, credential=credentials[bad.who])
    async with platform.tenant(tenant.api_key) as darkroom:
        assert [generation async for generation in darkroom.all()] == []
        assert await darkroom.loras() == []
        balance = await darkroom.balance()
    assert (balance.balance.nanos, balance.held.nanos) == (load.CREDIT_NANOS, 0)
