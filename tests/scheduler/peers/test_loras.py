import pytest

from darkroom import errors, ids
from darkroom.scheduler.fakes import loras as fakes
from darkroom.scheduler.peers import loras
from tests.scheduler.conftest import MODEL, Room, Tenant


@pytest.fixture
def peer(room: Room) -> loras.Loras:
    return loras.Loras(room.channel(room.lora_address, lambda: ""), service_secret=room.service_secret)


async def check(peer: loras.Loras, tenant_id: str, *adapter_ids: str) -> None:
    await peer.check(
        adapter_ids, field="image.adapters", tenant_id=tenant_id, generation_id=ids.new("gen"), model=MODEL
    )


async def test_only_the_tenants_own_for_this_model_pass(room: Room, tenant: Tenant, peer: loras.Loras) -> None:
    mine, misfit, foreign = ids.new("lora"), ids.new("lora"), ids.new("lora")
    room.loras.adapters = {
        mine: fakes.Adapter(tenant.tenant_id, MODEL),
        misfit: fakes.Adapter(tenant.tenant_id, "another"),
        foreign: fakes.Adapter(ids.new("ten"), MODEL),
    }
    await check(peer, tenant.tenant_id)
    await check(peer, tenant.tenant_id, mine)
    with pytest.raises(errors.InvalidArgument) as refused:
        await check(peer, tenant.tenant_id, misfit, mine)
    assert [violation.field for violation in refused.value.violations] == ["image.adapters[0].adapter_id"]
    for absent in (foreign, ids.new("lora")):
        with pytest.raises(errors.NotFound):
            await check(peer, tenant.tenant_id, mine, absent)
