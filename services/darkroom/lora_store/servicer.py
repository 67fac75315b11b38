"""LoraService: each RPC is checked, does one thing in the store, and is translated.

A push goes header -> `check`, chunks -> `uploads` (a spooled file), file -> `validate`, adapter -> `store`; whatever fails on the way
leaves nothing. Tenants are those of the credential, never of a message.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import TypeAlias

import grpc

from darkroom import clock, ids, page_tokens, rpc, uploads
from darkroom.api.lora_store.v1 import lora_service_pb2 as pb
from darkroom.api.lora_store.v1 import lora_service_pb2_grpc
from darkroom.lora_store import check, domain, store, validate

_Push: TypeAlias = "grpc.aio.ServicerContext[pb.PushLoraRequest, pb.PushLoraResponse]"
_List: TypeAlias = "grpc.aio.ServicerContext[pb.ListLorasRequest, pb.ListLorasResponse]"
_Get: TypeAlias = "grpc.aio.ServicerContext[pb.GetLoraRequest, pb.GetLoraResponse]"
_Pull: TypeAlias = "grpc.aio.ServicerContext[pb.PullLoraRequest, pb.PullLoraResponse]"
_Delete: TypeAlias = "grpc.aio.ServicerContext[pb.DeleteLoraRequest, pb.DeleteLoraResponse]"


class LoraServicer(lora_service_pb2_grpc.LoraServiceServicer):
    """The RPCs of lora_store."""

    def __init__(
        self,
        loras: store.Store,
        *,
        receiver: uploads.Receiver,
        tokens: page_tokens.PageTokens,
        models: Collection[str],
        bytes_max: int,
    ) -> None:
        self._loras = loras
        self._receiver = receiver
        self._tokens = tokens
        self._models = models
        self._bytes_max = bytes_max

    async def PushLora(
        self, request_iterator: AsyncIterator[pb.PushLoraRequest], context: _Push
    ) -> pb.PushLoraResponse:
        """Store an adapter that is sent as a header and chunks."""
        header = await self._receiver.header(request_iterator)
        self._check_header(header)
        async with self._receiver.receive(request_iterator, header) as spooled:
            numbers = await asyncio.to_thread(validate.check, spooled.file, size_bytes=spooled.size_bytes)
            lora = domain.Lora(
                adapter_id=ids.new("lora"),
                tenant_id=rpc.principal().tenant_id,
                name=header.name,
                base_model=header.base_model,
                sha256=spooled.sha256,
                size_bytes=spooled.size_bytes,
                numbers=numbers,
                created_at=clock.utc_now(),
            )
            stored, created = await self._loras.push(lora, lambda: uploads.read(spooled.file))
        return pb.PushLoraResponse(lora=_message(stored), created=created)

    async def ListLoras(self, request: pb.ListLorasRequest, context: _List) -> pb.ListLorasResponse:
        """List the tenant's adapters, newest first."""
        page_size = check.page(page_size=request.page_size, base_model=request.base_model)
        tenant_id = rpc.principal().tenant_id
        scope = f"ListLoras/{tenant_id}/{request.base_model}"
        before = self._tokens.read("page_token", request.page_token, scope)
        found = await self._loras.page(tenant_id, base_model=request.base_model, before=before, rows_max=page_size + 1)
        page = found[:page_size]
        more = len(found) > page_size
        token = self._tokens.make(scope, position=page[-1].adapter_id) if more else ""
        return pb.ListLorasResponse(loras=map(_message, page), next_page_token=token)

    async def GetLora(self, request: pb.GetLoraRequest, context: _Get) -> pb.GetLoraResponse:
        """Describe one adapter."""
        return pb.GetLoraResponse(lora=_message(await self._find(request.adapter_id)))

    async def PullLora(self, request: pb.PullLoraRequest, context: _Pull) -> AsyncIterator[pb.PullLoraResponse]:
        """Stream one adapter: its description, then its bytes."""
        lora = await self._find(request.adapter_id)
        yield pb.PullLoraResponse(lora=_message(lora))
        async for chunk in self._loras.read(lora):
            yield pb.PullLoraResponse(chunk=chunk)

    async def DeleteLora(self, request: pb.DeleteLoraRequest, context: _Delete) -> pb.DeleteLoraResponse:
        """Delete one adapter; again is no error."""
        check.adapter_id(request.adapter_id)
        await self._loras.delete(rpc.principal().tenant_id, request.adapter_id)
        return pb.DeleteLoraResponse()

    def _check_header(self, header: pb.PushLoraHeader) -> None:
        check.header(
            name=header.name,
            base_model=header.base_model,
            sha256=header.sha256,
            size_bytes=header.size_bytes,
            models=self._models,
            bytes_max=self._bytes_max,
        )

    async def _find(self, adapter_id: str) -> domain.Lora:
        check.adapter_id(adapter_id)
        return await self._loras.get(rpc.principal().tenant_id, adapter_id)


def _message(lora: domain.Lora) -> pb.Lora:
    message = pb.Lora(
        adapter_id=lora.adapter_id,
        name=lora.name,
        base_model=lora.base_model,
        sha256=lora.sha256,
        size_bytes=lora.size_bytes,
        rank=lora.numbers.rank,
        pairs=lora.numbers.pairs,
        dtype=lora.numbers.dtype,
    )
    message.created_at.FromDatetime(lora.created_at)
    return message
