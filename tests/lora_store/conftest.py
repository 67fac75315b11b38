"""A real lora_store over real gRPC, PostgreSQL and a directory of blobs; credentials are capabilities."""

import asyncio
import hashlib
import pathlib
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import grpc
import pytest
import yaml

from darkroom import ids, postgres, rpc, tokens
from darkroom.api.lora_store.v1 import lora_service_pb2 as pb
from darkroom.api.lora_store.v1 import lora_service_pb2_grpc
from darkroom.lora_store import config, server
from tests.shared.test_catalog import GOOD

SCOPES = ("loras.read", "loras.write")


class Room(NamedTuple):
    """A running lora_store."""

    channel: grpc.aio.Channel
    database: postgres.Database
    blobs: pathlib.Path
    spool: pathlib.Path
    secret: str

    @property
    def stub(self) -> Any:
        return lora_service_pb2_grpc.LoraServiceStub(self.channel)

    def as_(self, tenant_id: str, *, scopes: tuple[str, ...] = SCOPES) -> tuple[tuple[str, str], ...]:
        token = tokens.capability(self.secret, tenant_id=tenant_id, generation_id=ids.new("gen"), scopes=scopes)
        return (("authorization", f"Bearer {token}"),)

    async def push(self, tenant_id: str, raw: bytes, **changes: Any) -> pb.PushLoraResponse:
        return await self.stub.PushLora(parts(raw, **changes), metadata=self.as_(tenant_id))

    def files(self) -> list[pathlib.Path]:
        return sorted(path for path in self.blobs.rglob("*") if path.is_file())


def parts(raw: bytes, *, chunk_bytes: int = 1 << 20, **changes: Any) -> Iterator[pb.PushLoraRequest]:
    """A push's messages; `changes` override the header's true fields."""
    fields = {
        "name": "style",
        "base_model": "tiny",
        "sha256": hashlib.sha256(raw).hexdigest(),
        "size_bytes": len(raw),
    }
    yield pb.PushLoraRequest(header=pb.PushLoraHeader(**{**fields, **changes}))
    for start in range(0, len(raw), chunk_bytes):
        yield pb.PushLoraRequest(chunk=raw[start : start + chunk_bytes])


@pytest.fixture
async def room(database_url: str, service_secret: str, tmp_path: pathlib.Path) -> AsyncIterator[Room]:
    """A lora_store whose catalogue holds "tiny" and "other"."""
    for name in ("tiny", "other"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**GOOD, "name": name}))
    (tmp_path / "spool").mkdir()
    settings = config.Config(
        database_url=database_url,
        service_secret=service_secret,
        billing_meter_address="127.0.0.1:1",
        blob_url=f"file://{tmp_path}/blobs",
        catalog_dir=str(tmp_path),
        spool_dir=str(tmp_path / "spool"),
        uploads_max=8,
        shutdown_grace_s=0.5,
    )
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(server.serve(settings, ready=address.set_result))
    await asyncio.wait([task, address], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
    async with (
        rpc.channel(await address) as channel,
        postgres.connect(database_url, schema="lora_store", pool_size_max=2) as database,
    ):
        yield Room(channel, database, tmp_path / "blobs", tmp_path / "spool", service_secret)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
