"""A real media_store over real gRPC, HTTP, PostgreSQL and a directory of blobs; credentials are capabilities."""

import asyncio
import hashlib
import io
import pathlib
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import grpc
import pytest
from PIL import Image

from darkroom import postgres, rpc, tokens
from darkroom.api.media_store.v1 import media_service_pb2 as pb
from darkroom.api.media_store.v1 import media_service_pb2_grpc
from darkroom.media_store import config, server

SCOPES = ("media.read", "media.write")


class Room(NamedTuple):
    """A running media_store."""

    channel: grpc.aio.Channel
    database: postgres.Database
    blobs: pathlib.Path
    spool: pathlib.Path
    secret: str

    @property
    def stub(self) -> Any:
        return media_service_pb2_grpc.MediaServiceStub(self.channel)

    def as_(
        self, tenant_id: str, *, generation_id: str = "", scopes: tuple[str, ...] = SCOPES
    ) -> tuple[tuple[str, str], ...]:
        token = tokens.capability(self.secret, tenant_id=tenant_id, generation_id=generation_id, scopes=scopes)
        return (("authorization", f"Bearer {token}"),)

    async def put(self, tenant_id: str, raw: bytes, *, generation_id: str = "", **changes: Any) -> pb.Media:
        metadata = self.as_(tenant_id, generation_id=generation_id)
        return (await self.stub.PutMedia(parts(raw, **changes), metadata=metadata)).media

    async def delete(self, tenant_id: str, media_id: str) -> None:
        await self.stub.DeleteMedia(pb.DeleteMediaRequest(media_id=media_id), metadata=self.as_(tenant_id))

    def files(self) -> list[pathlib.Path]:
        return sorted(path for path in self.blobs.rglob("*") if path.is_file())


def png(*, width: int = 8, height: int = 8, colour: int = 0) -> bytes:
    """A picture of one grey."""
    return image("PNG", width=width, height=height, colour=colour)


def image(form: str, *, width: int = 8, height: int = 8, colour: int = 0, **options: Any) -> bytes:
    """A picture as Pillow writes it."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), (colour, colour, colour)).save(file, form, **options)
    return file.getvalue()


def parts(raw: bytes, *, chunk_bytes: int = 1 << 20, **changes: Any) -> Iterator[pb.PutMediaRequest]:
    """A put's messages; `changes` override the header's true fields."""
    fields = {"sha256": hashlib.sha256(raw).hexdigest(), "size_bytes": len(raw)}
    yield pb.PutMediaRequest(header=pb.PutMediaHeader(**{**fields, **changes}))
    for start in range(0, len(raw), chunk_bytes):
        yield pb.PutMediaRequest(chunk=raw[start : start + chunk_bytes])


@pytest.fixture
async def room(database_url: str, service_secret: str, tmp_path: pathlib.Path) -> AsyncIterator[Room]:
    """A media_store that keeps its bytes in a directory."""
    (tmp_path / "spool").mkdir()
    settings = config.Config(
        database_url=database_url,
        service_secret=service_secret,
        billing_meter_address="127.0.0.1:1",
        blob_url=f"file://{tmp_path}/blobs",
        spool_dir=str(tmp_path / "spool"),
        image_pixels_max=1 << 20,
        sweep_interval_s=0.05,
        shutdown_grace_s=0.5,
    )
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(server.serve(settings, ready=address.set_result))
    await asyncio.wait([task, address], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
    async with (
        rpc.channel(await address) as channel,
        postgres.connect(database_url, schema="media_store", pool_size_max=2) as database,
    ):
        yield Room(channel, database, tmp_path / "blobs", tmp_path / "spool", service_secret)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
