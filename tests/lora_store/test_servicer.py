import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from darkroom import errors, ids, rpc
from darkroom.api.lora_store.v1 import lora_service_pb2 as pb
from tests.lora_store import adapters
from tests.lora_store.conftest import Room, parts

TENANT, OTHER = ids.new("ten"), ids.new("ten")
RAW = adapters.good(modules=3)


async def refusal(call: Any) -> errors.DarkroomError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return rpc.from_rpc_error(raised.value)


async def invalid(call: Any) -> list[str]:
    error = await refusal(call)
    assert isinstance(error, errors.InvalidArgument), repr(error)
    return [violation.field for violation in error.violations]


async def pull(room: Room, tenant_id: str, adapter_id: str) -> tuple[pb.Lora, bytes]:
    call = room.stub.PullLora(pb.PullLoraRequest(adapter_id=adapter_id), metadata=room.as_(tenant_id))
    messages = [message async for message in call]
    assert [message.WhichOneof("part") for message in messages] == ["lora"] + ["chunk"] * (len(messages) - 1)
    return messages[0].lora, b"".join(message.chunk for message in messages[1:])


async def test_what_is_pushed_is_listed_shown_pulled_and_deleted(room: Room) -> None:
    pushed = await room.push(TENANT, RAW, chunk_bytes=100)
    lora = pushed.lora
    assert pushed.created
    assert (lora.name, lora.base_model, lora.sha256) == ("style", "tiny", hashlib.sha256(RAW).hexdigest())
    assert (lora.size_bytes, lora.rank, lora.pairs, lora.dtype) == (len(RAW), 2, 3, "F32")
    assert lora.created_at.seconds > 0
    metadata = room.as_(TENANT)
    assert (await room.stub.GetLora(pb.GetLoraRequest(adapter_id=lora.adapter_id), metadata=metadata)).lora == lora
    assert list((await room.stub.ListLoras(pb.ListLorasRequest(), metadata=metadata)).loras) == [lora]
    assert await pull(room, TENANT, lora.adapter_id) == (lora, RAW)
    for _ in range(2):
        await room.stub.DeleteLora(pb.DeleteLoraRequest(adapter_id=lora.adapter_id), metadata=metadata)
    gone = await refusal(room.stub.GetLora(pb.GetLoraRequest(adapter_id=lora.adapter_id), metadata=metadata))
    assert isinstance(gone, errors.NotFound)
    assert not (await room.stub.ListLoras(pb.ListLorasRequest(), metadata=metadata)).loras
    assert not room.files()
    assert (await room.push(TENANT, RAW)).created


async def test_a_file_of_several_chunks_comes_back_whole(room: Room) -> None:
    columns = 700_000
    values = [0.25]
    tensors: adapters.Tensors = {
        adapters.DOWN: ("F32", (1, columns), values * columns),
        adapters.UP: ("F32", (3, 1), values * 3),
    }
    raw = adapters.file(*adapters.entries(tensors))
    lora = (await room.push(TENANT, raw)).lora
    assert await pull(room, TENANT, lora.adapter_id) == (lora, raw)


async def test_the_same_bytes_are_the_adapter_that_is_there(room: Room) -> None:
    first = await room.push(TENANT, RAW)
    again = await room.push(TENANT, RAW, name="another-name")
    assert (again.lora, again.created) == (first.lora, False)
    other_model = await room.push(TENANT, RAW, base_model="other")
    other_tenant = await room.push(OTHER, RAW)
    ids_ = {first.lora.adapter_id, other_model.lora.adapter_id, other_tenant.lora.adapter_id}
    assert len(ids_) == 3
    assert len(room.files()) == 2
    await room.stub.DeleteLora(pb.DeleteLoraRequest(adapter_id=first.lora.adapter_id), metadata=room.as_(TENANT))
    assert (await pull(room, TENANT, other_model.lora.adapter_id))[1] == RAW
    assert (await pull(room, OTHER, other_tenant.lora.adapter_id))[1] == RAW


async def test_pushes_of_the_same_bytes_at_once_make_one_adapter(room: Room) -> None:
    answers = await asyncio.gather(*[room.push(TENANT, RAW) for _ in range(8)])
    assert len({answer.lora.adapter_id for answer in answers}) == 1
    assert sum(answer.created for answer in answers) == 1
    assert await room.database.fetchval("SELECT count(*) FROM lora") == 1
    assert len(room.files()) == 1


async def test_pushes_and_deletes_at_once_end_with_whole_adapters(room: Room) -> None:
    async def churn() -> None:
        for _ in range(6):
            lora = (await room.push(TENANT, RAW)).lora
            await room.stub.DeleteLora(pb.DeleteLoraRequest(adapter_id=lora.adapter_id), metadata=room.as_(TENANT))

    await asyncio.gather(*[churn() for _ in range(4)])
    assert not room.files()
    assert await room.database.fetchval("SELECT count(*) FROM blob") == 0
    lora = (await room.push(TENANT, RAW)).lora
    assert (await pull(room, TENANT, lora.adapter_id))[1] == RAW


BAD_HEADERS = {
    "name empty": ({"name": ""}, ["header.name"]),
    "name upper": ({"name": "Style"}, ["header.name"]),
    "name traversal": ({"name": "../style"}, ["header.name"]),
    "name long": ({"name": "a" * 65}, ["header.name"]),
    "name ligature": ({"name": "ﬁlm"}, ["header.name"]),
    "name url": ({"name": "http://169.254.169.254/"}, ["header.name"]),
    "model empty": ({"base_model": ""}, ["header.base_model"]),
    "model unknown": ({"base_model": "huge"}, ["header.base_model"]),
    "model traversal": ({"base_model": "../tiny"}, ["header.base_model"]),
    "digest empty": ({"sha256": ""}, ["header.sha256"]),
    "digest upper": ({"sha256": "A" * 64}, ["header.sha256"]),
    "digest short": ({"sha256": "a" * 63}, ["header.sha256"]),
    "digest of another file": ({"sha256": "0" * 64}, ["header.sha256"]),
    "size 0": ({"size_bytes": 0}, ["header.size_bytes"]),
    "size -1": ({"size_bytes": -1}, ["header.size_bytes"]),
    "size over the limit": ({"size_bytes": 2**31 + 1}, ["header.size_bytes"]),
    "size of 2**63": ({"size_bytes": 2**63 - 1}, ["header.size_bytes"]),
    "size less than sent": ({"size_bytes": len(RAW) - 1}, ["header.size_bytes"]),
    "size more than sent": ({"size_bytes": len(RAW) + 1}, ["header.size_bytes"]),
    "all": ({"name": "", "base_model": "", "sha256": "", "size_bytes": 0},
            ["header.name", "header.base_model", "header.sha256", "header.size_bytes"]),
}  # fmt: skip


async def test_a_bad_header_is_refused_by_field_and_leaves_nothing(room: Room) -> None:
    for case, (changes, fields) in BAD_HEADERS.items():
        assert await invalid(room.push(TENANT, RAW, **changes)) == fields, case
    assert not room.files()
    assert await room.database.fetchval("SELECT count(*) FROM lora") == 0


async def test_a_bad_file_is_refused_and_leaves_nothing(room: Room) -> None:
    assert await invalid(room.push(TENANT, b"\x80\x04\x95pickle, which can run code")) == ["chunk"]
    assert await invalid(room.push(TENANT, RAW[:-4])) == ["chunk"]
    assert not room.files()
    assert not list(room.spool.iterdir())
    assert await room.database.fetchval("SELECT count(*) FROM blob") == 0


async def test_messages_out_of_order_are_refused(room: Room) -> None:
    header, chunk = parts(RAW)
    for messages, field in [
        ([], "header"),
        ([chunk, header], "header"),
        ([pb.PushLoraRequest()], "header"),
        ([header, header, chunk], "header"),
        ([header, pb.PushLoraRequest(), chunk], "chunk"),
        ([header, pb.PushLoraRequest(chunk=b"")], "chunk"),
        ([header, pb.PushLoraRequest(chunk=bytes((1 << 20) + 1))], "chunk"),
    ]:
        assert await invalid(room.stub.PushLora(iter(messages), metadata=room.as_(TENANT))) == [field]


async def test_a_cut_stream_leaves_nothing(room: Room) -> None:
    header, chunk, *_ = parts(RAW, chunk_bytes=64)
    sent = asyncio.Event()

    async def stall() -> AsyncIterator[pb.PushLoraRequest]:
        yield header
        yield chunk
        sent.set()
        await asyncio.Event().wait()

    call = room.stub.PushLora(stall(), metadata=room.as_(TENANT))
    await sent.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await room.push(TENANT, RAW)).created
    assert len(room.files()) == 1


BAD_IDS = ["", "x", "lora_", "lora_" + "G" * 32, "gen_" + "0" * 32, "lora_" + "0" * 33, "a" * 5000]


async def test_a_malformed_id_is_refused(room: Room) -> None:
    metadata = room.as_(TENANT)
    for bad in BAD_IDS:
        get, delete = pb.GetLoraRequest(adapter_id=bad), pb.DeleteLoraRequest(adapter_id=bad)
        assert await invalid(room.stub.GetLora(get, metadata=metadata)) == ["adapter_id"]
        assert await invalid(room.stub.DeleteLora(delete, metadata=metadata)) == ["adapter_id"]
        pulling = room.stub.PullLora(pb.PullLoraRequest(adapter_id=bad), metadata=metadata)
        assert await invalid(pulling.read()) == ["adapter_id"]


async def test_another_tenants_adapter_is_as_missing(room: Room) -> None:
    lora = (await room.push(TENANT, RAW)).lora
    missing = ids.new("lora")
    metadata = room.as_(OTHER)
    for ask in (
        lambda adapter_id: room.stub.GetLora(pb.GetLoraRequest(adapter_id=adapter_id), metadata=metadata),
        lambda adapter_id: room.stub.DeleteLora(pb.DeleteLoraRequest(adapter_id=adapter_id), metadata=metadata),
        lambda adapter_id: room.stub.PullLora(pb.PullLoraRequest(adapter_id=adapter_id), metadata=metadata).read(),
    ):
        foreign, absent = await refusal(ask(lora.adapter_id)), await refusal(ask(missing))
        assert isinstance(foreign, errors.NotFound)
        assert isinstance(absent, errors.NotFound)
        assert str(foreign).replace(lora.adapter_id, missing) == str(absent)
    assert not (await room.stub.ListLoras(pb.ListLorasRequest(), metadata=metadata)).loras
    assert (await pull(room, TENANT, lora.adapter_id))[1] == RAW


async def test_pages_go_through_all_newest_first(room: Room) -> None:
    pushed = [(await room.push(TENANT, adapters.good(seed=float(n)), name=f"n{n}")).lora for n in range(5)]
    await room.push(TENANT, RAW, base_model="other")
    await room.push(OTHER, RAW)
    metadata = room.as_(TENANT)
    names, token, pages = [], "", 0
    while pages == 0 or token:
        request = pb.ListLorasRequest(page_size=2, page_token=token, base_model="tiny")
        page = await room.stub.ListLoras(request, metadata=metadata)
        names += [lora.name for lora in page.loras]
        token, pages = page.next_page_token, pages + 1
    assert names == [lora.name for lora in sorted(pushed, key=lambda lora: lora.adapter_id, reverse=True)]
    assert pages == 3


async def test_bad_lists_are_refused(room: Room) -> None:
    for seed in (1.0, 2.0):
        await room.push(TENANT, adapters.good(seed=seed))
    first = pb.ListLorasRequest(page_size=1)
    token = (await room.stub.ListLoras(first, metadata=room.as_(TENANT))).next_page_token
    for tenant_id, request, field in [
        (TENANT, pb.ListLorasRequest(page_size=-1), "page_size"),
        (TENANT, pb.ListLorasRequest(page_size=201), "page_size"),
        (TENANT, pb.ListLorasRequest(page_token="forged"), "page_token"),
        (TENANT, pb.ListLorasRequest(page_token=token, base_model="tiny"), "page_token"),
        (OTHER, pb.ListLorasRequest(page_token=token), "page_token"),
        (TENANT, pb.ListLorasRequest(base_model="../x"), "base_model"),
    ]:
        assert await invalid(room.stub.ListLoras(request, metadata=room.as_(tenant_id))) == [field]


async def test_scopes_are_needed(room: Room) -> None:
    reader = room.as_(TENANT, scopes=("loras.read",))
    error = await refusal(room.stub.PushLora(parts(RAW), metadata=reader))
    assert isinstance(error, errors.PermissionDenied)
    error = await refusal(room.stub.ListLoras(pb.ListLorasRequest()))
    assert isinstance(error, errors.Unauthenticated)
