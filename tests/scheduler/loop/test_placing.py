import jwt

from darkroom import tokens
from darkroom.scheduler.loop import placing
from tests.scheduler import stage
from tests.scheduler.conftest import eventually


async def test_an_attempt_carries_a_capability_for_its_tenants_adapters_and_media(room, tenant):
    async with stage.runners(room, "node-a") as [runner]:
        made = await tenant.create()
        await stage.until(tenant, made.generation_id)
        [assign] = runner.assigned
        principal = tokens.verify(room.service_secret, assign.capability)
        assert (principal.tenant_id, principal.generation_id) == (tenant.tenant_id, made.generation_id)
        assert principal.scopes == frozenset(placing.CAPABILITY_SCOPES)
        claims = jwt.decode(assign.capability, options={"verify_signature": False})
        assert round(claims["exp"] - claims["iat"]) == 86_400  # sixteen long videos aboard take more than an hour


async def test_equal_runners_share_what_comes_at_once(room, tenant):
    async with stage.runners(room, "node-a", "node-b") as both:
        await stage.all_ready(room, 2)
        for runner in both:
            runner.behaviour.waits_over = "circle"
        for _ in range(6):
            await tenant.create()

        async def placed() -> bool:
            return sum(len(runner.aboard()) for runner in both) == 6

        await eventually(placed)
        assert [len(runner.aboard()) for runner in both] == [3, 3]


async def test_a_model_that_does_not_fit_is_not_placed(room, tenant):
    async with stage.runners(room, "node-a") as [runner]:
        runner.behaviour.memory_used_bytes = 10**9
        runner.behaviour.resident = ()
        made = await tenant.create()
        await stage.all_ready(room, 1)
        assert (await tenant.get(made.generation_id)).state == stage.QUEUED
        runner.behaviour.memory_used_bytes = 0
        assert (await stage.until(tenant, made.generation_id)).state == stage.SUCCEEDED
