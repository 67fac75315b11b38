import asyncio
import gc
from typing import Any

import grpc.aio
import pytest

from darkroom import errors, ids
from darkroom.api.billing_meter.v1 import account_service_pb2, account_service_pb2_grpc
from darkroom.api.scheduler.v1 import generation_pb2
from darkroom.api.scheduler.v1 import generation_service_pb2 as pb
from darkroom.api.types.v1.inputs_pb2 import ImageInput
from darkroom.scheduler.domain import generation as domain
from tests.scheduler.conftest import Room, Tenant, eventually, fields_of, refusal, request

QUEUED = generation_pb2.GENERATION_STATE_QUEUED
RUNNING = generation_pb2.GENERATION_STATE_RUNNING
CANCELLED = generation_pb2.GENERATION_STATE_CANCELLED


async def move(room: Room, generation_id: str, state: str) -> None:
    """Change the state as the owner of its pool does, another replica of which nothing else is to be seen."""
    async with room.database.transaction() as connection:
        await connection.execute(
            "INSERT INTO pool_lease (pool, owner_id, epoch, expires_at) VALUES ('elsewhere', 'other', 1, 'infinity')"
            " ON CONFLICT DO NOTHING"
        )
        await connection.execute(
            "UPDATE generation SET state = $2, sequence = sequence + 1, steps_done = 0, pool = 'elsewhere'"
            " WHERE generation_id = $1",
            generation_id,
            state,
        )
        await connection.execute(
            "INSERT INTO generation_event (generation_id, sequence, state)"
            " SELECT generation_id, sequence, state FROM generation WHERE generation_id = $1",
            generation_id,
        )


async def progress(room: Room, generation_id: str, steps_done: int) -> None:
    """Change the steps done as a pool's owner does."""
    await room.database.execute(
        "UPDATE generation SET steps_done = $2, sequence = sequence + 1 WHERE generation_id = $1",
        generation_id,
        steps_done,
    )


def watch(tenant: Tenant, generation_id: str, after_sequence: int = 0) -> Any:
    wanted = pb.WatchGenerationRequest(generation_id=generation_id, after_sequence=after_sequence)
    return tenant.generations.WatchGeneration(wanted)


def cancel(tenant: Tenant, generation_id: str) -> Any:
    return tenant.generations.CancelGeneration(pb.CancelGenerationRequest(generation_id=generation_id))


async def seen(call: Any) -> list[tuple[int, int, int]]:
    """All of a watch: sequence, state, steps."""
    return [
        (change.generation.sequence, change.generation.state, change.generation.steps_done) async for change in call
    ]


async def first(call: Any) -> Any:
    """The first answer of a stream."""
    return await call.__aiter__().__anext__()


BY_ID = [
    ("GetGeneration", pb.GetGenerationRequest),
    ("CancelGeneration", pb.CancelGenerationRequest),
    ("ExplainGeneration", pb.ExplainGenerationRequest),
    ("WatchGeneration", pb.WatchGenerationRequest),
]


async def test_every_id_is_checked_and_foreign_ones_are_missing(room: Room, tenant: Tenant) -> None:
    foreign = (await (await room.tenant()).create()).generation_id
    absent = ids.new("gen")
    for method, message in BY_ID:

        async def call(generation_id: str, method: str = method, message: Any = message) -> Any:
            answer = getattr(tenant.generations, method)(message(generation_id=generation_id))
            return await (first(answer) if method == "WatchGeneration" else answer)

        for bad in ("", "gen_1", "../x", ids.new("lora")):
            assert fields_of(await refusal(call(bad))) == ["generation_id"], method
        there, missing = await refusal(call(foreign)), await refusal(call(absent))
        assert isinstance(there, errors.NotFound), method
        assert str(there).replace(foreign, absent) == str(missing)
    found = await tenant.generations.ListGenerations(pb.ListGenerationsRequest())
    assert not found.generations


async def test_who_may_call_what(room: Room, tenant: Tenant) -> None:
    accounts = account_service_pb2_grpc.AccountServiceStub(
        room.channel(room.billing_address, lambda: room.operator_key)
    )
    reader = await accounts.CreateKey(
        account_service_pb2.CreateKeyRequest(tenant_id=tenant.tenant_id, name="r", scopes=["generations.read"])
    )
    made = await tenant.create()
    reading = room.connect(tenant.tenant_id, reader.api_key, room.address)
    assert (await reading.get(made.generation_id)).generation_id == made.generation_id
    assert isinstance(await refusal(reading.create()), errors.PermissionDenied)
    assert isinstance(await refusal(cancel(reading, made.generation_id)), errors.PermissionDenied)
    nobody = room.connect(tenant.tenant_id, "dk_000000000000_" + "0" * 64, room.address)
    assert isinstance(await refusal(nobody.get(made.generation_id)), errors.Unauthenticated)


async def test_lists_are_paged_and_filtered(room: Room, tenant: Tenant) -> None:
    made = [(await tenant.create()).generation_id for _ in range(5)]
    await cancel(tenant, made[0])

    async def page(**fields: Any) -> Any:
        return await tenant.generations.ListGenerations(pb.ListGenerationsRequest(**fields))

    one = await page(page_size=3)
    assert [each.generation_id for each in one.generations] == made[:1:-1]
    two = await page(page_size=3, page_token=one.next_page_token)
    assert [each.generation_id for each in two.generations] == made[1::-1]
    assert two.next_page_token == ""
    assert [each.generation_id for each in (await page(state=CANCELLED)).generations] == made[:1]
    assert not (await page(model="another-model")).generations
    stranger = await room.tenant()
    for caller, fields in (
        (tenant, {"page_token": "forged"}),
        (tenant, {"page_token": one.next_page_token, "state": QUEUED}),
        (stranger, {"page_token": one.next_page_token}),
    ):
        refused = await refusal(caller.generations.ListGenerations(pb.ListGenerationsRequest(**fields)))
        assert fields_of(refused) == ["page_token"]
    for field, value in (("page_size", -1), ("page_size", 201), ("state", 99), ("model", "../x")):
        assert fields_of(await refusal(page(**{field: value}))) == [field]


async def test_a_page_is_no_longer_than_a_message_may_be(room: Room, tenant: Tenant) -> None:
    made = [(await tenant.create()).generation_id for _ in range(5)]
    long = request(image=ImageInput(prompt="circle " * 200_000)).SerializeToString()  # 1.4 MB
    await room.database.execute("UPDATE generation SET input = $1", long)
    found, token = [], ""
    for count in (2, 2, 1):
        asked = pb.ListGenerationsRequest(page_size=5, page_token=token)
        page = await tenant.generations.ListGenerations(asked)
        assert len(page.generations) == count
        assert page.ByteSize() < 4 << 20
        found += [each.generation_id for each in page.generations]
        token = page.next_page_token
    assert found == made[::-1]
    assert token == ""


async def test_a_cancel_ends_what_waits_and_is_told_to_what_runs(room: Room, tenant: Tenant) -> None:
    waiting, running = await tenant.create(), await tenant.create()
    await move(room, running.generation_id, "RUNNING")
    assert (await cancel(tenant, waiting.generation_id)).generation.state == CANCELLED
    assert (await cancel(tenant, waiting.generation_id)).generation.state == CANCELLED
    assert (await cancel(tenant, running.generation_id)).generation.state == RUNNING


async def test_a_watch_sees_every_change_until_the_end(room: Room, tenant: Tenant) -> None:
    made = await tenant.create()
    call = watch(tenant, made.generation_id)
    assert (await first(call)).generation.state == QUEUED
    for state in ("RUNNING", "QUEUED", "RUNNING"):
        await move(room, made.generation_id, state)
    await progress(room, made.generation_id, 7)
    await move(room, made.generation_id, "QUEUED")
    await cancel(tenant, made.generation_id)
    changes = [(sequence, state) for sequence, state, _ in await seen(call)]
    states = [state for sequence, state in changes if sequence != 5]  # 5 is progress, and may be skipped
    assert states == [RUNNING, QUEUED, RUNNING, QUEUED, CANCELLED]
    assert sorted(changes) == changes
    assert (await tenant.get(made.generation_id)).sequence == changes[-1][0]


async def test_progress_is_seen(room: Room, tenant: Tenant) -> None:
    made = await tenant.create()
    await move(room, made.generation_id, "RUNNING")
    call = watch(tenant, made.generation_id)
    stream = call.__aiter__()
    assert (await stream.__anext__()).generation.steps_done == 0
    for steps_done in (3, 8):
        await progress(room, made.generation_id, steps_done)
        assert (await stream.__anext__()).generation.steps_done == steps_done
    call.cancel()


async def test_a_watch_goes_on_where_it_broke_off_on_another_replica(room: Room, tenant: Tenant) -> None:
    other = room.connect(tenant.tenant_id, tenant.key, await room.start_replica())
    made = await tenant.create()
    await move(room, made.generation_id, "RUNNING")
    await move(room, made.generation_id, "QUEUED")
    following = asyncio.create_task(seen(watch(other, made.generation_id, after_sequence=1)))
    await cancel(tenant, made.generation_id)
    assert [(sequence, state) for sequence, state, _ in await following] == [(2, RUNNING), (3, QUEUED), (4, CANCELLED)]
    assert await seen(watch(other, made.generation_id, after_sequence=4)) == [], "nothing new, and it is over"
    assert [each[0] for each in await seen(watch(other, made.generation_id))] == [4]
    for bad in (-1, 5):
        refused = await refusal(first(watch(other, made.generation_id, after_sequence=bad)))
        assert fields_of(refused) == ["after_sequence"]


async def test_a_watcher_that_leaves_is_forgotten(room: Room, tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await tenant.create()
    calls = [watch(tenant, made.generation_id) for _ in range(3)]
    for call in calls:
        await first(call)
    for call in calls:
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await seen(call)
    await cancel(tenant, made.generation_id)

    async def idle() -> bool:
        return not any("WatchGeneration" in repr(task) for task in asyncio.all_tasks())

    await eventually(idle)


async def test_a_watcher_that_waits_holds_no_request(room: Room, tenant: Tenant) -> None:
    """Its pictures may be half a megabyte, times as many as watch."""
    made = await tenant.create()
    call = watch(tenant, made.generation_id)
    await first(call)

    async def forgotten() -> bool:
        gc.collect()
        nouns = [each for each in gc.get_objects() if type(each) is domain.Generation]  # proxies answer isinstance
        return all(noun.generation_id != made.generation_id for noun in nouns)

    await eventually(forgotten)
    call.cancel()


async def test_a_generation_survives_the_replica(room: Room, tenant: Tenant) -> None:
    asked = request()
    made = (await tenant.generations.CreateGeneration(asked)).generation
    call = watch(tenant, made.generation_id)
    await first(call)
    await room.stop_replica()
    with pytest.raises(grpc.aio.AioRpcError) as broken:
        await seen(call)
    assert broken.value.code() == grpc.StatusCode.UNAVAILABLE
    again = room.connect(tenant.tenant_id, tenant.key, await room.start_replica())
    assert await again.get(made.generation_id) == made
    assert (await again.generations.CreateGeneration(asked)).generation == made
    await cancel(again, made.generation_id)
    assert [state for _, state, _ in await seen(watch(again, made.generation_id, after_sequence=1))] == [CANCELLED]
