from darkroom import errors, ids, tokens
from darkroom.api.billing_meter.v1 import billing_service_pb2
from darkroom.api.scheduler.v1 import generation_service_pb2 as pb
from darkroom.scheduler.domain import spending as money
from darkroom.scheduler.loop.spending import Funds
from darkroom.scheduler.peers import billing
from darkroom.scheduler.store import spending
from tests.scheduler.conftest import ESTIMATE_NANOS, USD, Room, Tenant, eventually, refusal


async def held_nanos(tenant: Tenant) -> int:
    return int((await tenant.billing.GetBalance(billing_service_pb2.GetBalanceRequest())).held.nanos)


async def test_a_first_create_asks_for_more_than_it_needs(room: Room, tenant: Tenant) -> None:
    await tenant.create()
    assert await held_nanos(tenant) == 10 * ESTIMATE_NANOS
    for _ in range(4):
        await tenant.create()
    assert await room.database.fetchval("SELECT count(*) FROM spending_grant WHERE state = 'APPLIED'") == 1


async def test_a_lease_that_runs_low_is_filled_ahead_of_need(room: Room, tenant: Tenant) -> None:
    for _ in range(9):
        await tenant.create()

    async def filled() -> bool:
        lease = await spending.Spending(room.database).lease(tenant.tenant_id)
        return lease.remaining_nanos >= 5 * ESTIMATE_NANOS

    await eventually(filled)
    assert await room.reconcile() == {}


async def test_a_lost_answer_is_asked_for_again_under_the_same_id(room: Room, tenant: Tenant) -> None:
    store = spending.Spending(room.database)
    lost = money.Grant(ids.new("lea"), tenant.tenant_id, "USD", 9 * ESTIMATE_NANOS, 1)
    await store.ask(lost)  # and the replica died before the answer came
    await tenant.create()
    assert await store.asked() == []
    lease = await store.lease(tenant.tenant_id)
    assert lease.remaining_nanos == 8 * ESTIMATE_NANOS, "its own create needed no other grant"
    assert await held_nanos(tenant) == 9 * ESTIMATE_NANOS


async def test_old_lost_answers_are_settled_without_a_create(room: Room, tenant: Tenant) -> None:
    store = spending.Spending(room.database)
    await store.ask(money.Grant(ids.new("lea"), tenant.tenant_id, "USD", 500, 1))
    await store.ask(money.Grant(ids.new("lea"), tenant.tenant_id, "USD", 100 * USD, 100 * USD))  # not covered
    await room.database.execute("UPDATE spending_grant SET created_at = created_at - interval '1 minute'")

    async def settled() -> bool:
        return not await store.asked()

    await eventually(settled)
    assert (await store.lease(tenant.tenant_id)).remaining_nanos == 500
    assert await held_nanos(tenant) == 500


async def test_idle_money_goes_back_to_the_tenant(idle_room: Room) -> None:
    await idle_room.start(lease_idle_s=0.1)
    tenant = await idle_room.tenant()
    made = await tenant.create()

    async def only_the_reserved_is_held() -> bool:
        return await held_nanos(tenant) == ESTIMATE_NANOS

    await eventually(only_the_reserved_is_held)
    await tenant.generations.CancelGeneration(pb.CancelGenerationRequest(generation_id=made.generation_id))

    async def nothing_is_held() -> bool:
        return await held_nanos(tenant) == 0

    await eventually(nothing_is_held)
    assert await idle_room.reconcile() == {}


async def test_accounts_of_another_currency_are_refused(room: Room, tenant: Tenant) -> None:
    await room.database.execute("INSERT INTO spending_lease (tenant_id, currency) VALUES ($1, 'EUR')", tenant.tenant_id)
    refused = await refusal(tenant.create())
    assert isinstance(refused, errors.FailedPrecondition)
    assert refused.reason == "CURRENCY_MISMATCH"


async def test_while_the_meter_is_away_only_the_lease_is_spent(room: Room, tenant: Tenant) -> None:
    await tenant.create()
    await room.database.execute("UPDATE spending_lease SET used_at = clock_timestamp()")
    await room.stop_billing()
    await tenant.create()  # the key and the price are remembered, the lease holds enough
    await room.database.execute(
        "UPDATE spending_lease SET granted_nanos = granted_nanos - remaining_nanos, remaining_nanos = 0"
    )
    assert isinstance(await refusal(tenant.create()), errors.Unavailable)


async def test_an_account_of_another_currency_is_told_so_at_its_first_create(room: Room) -> None:
    tenant = await room.tenant(credit_nanos=0)
    await room.database.execute(
        "UPDATE billing_meter.tenant SET currency = 'EUR' WHERE tenant_id = $1", tenant.tenant_id
    )
    refused = await refusal(tenant.create())
    assert (type(refused), refused.reason) == (errors.FailedPrecondition, "CURRENCY_MISMATCH")


async def test_for_what_is_free_no_money_is_set_aside(room: Room, tenant: Tenant) -> None:
    channel = room.channel(room.billing_address, tokens.ServiceCredential(room.service_secret, "scheduler"))
    funds = Funds(spending.Spending(room.database), billing.Billing(channel), room.config())
    funds.used(tenant.tenant_id, currency="EUR", nanos=0)
    await funds._top_up_all()
    assert await room.database.fetchval("SELECT count(*) FROM spending_grant") == 0
