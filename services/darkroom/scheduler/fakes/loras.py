"""A lora_store that knows the adapters it was told, and checks credentials like the real one."""

from typing import Any, NamedTuple

import grpc

from darkroom import errors, rpc, tokens
from darkroom.api.lora_store.v1 import lora_service_pb2 as pb
from darkroom.api.lora_store.v1 import lora_service_pb2_grpc


class Adapter(NamedTuple):
    """Whose it is and what it was made for."""

    tenant_id: str
    base_model: str


class FakeLoras(lora_service_pb2_grpc.LoraServiceServicer):
    """Answers GetLora from `adapters`, by id."""

    def __init__(self) -> None:
        self.adapters: dict[str, Adapter] = {}

    async def GetLora(
        self, request: pb.GetLoraRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.GetLoraResponse:
        """The adapter, if it is the caller's."""
        adapter = self.adapters.get(request.adapter_id)
        if adapter is None or adapter.tenant_id != rpc.principal().tenant_id:
            raise errors.NotFound("adapter", request.adapter_id)
        return pb.GetLoraResponse(lora=pb.Lora(adapter_id=request.adapter_id, base_model=adapter.base_model))


async def refuse_keys(api_key: str) -> tokens.Principal:
    """A KeyVerifier to which no API key is good: only tokens of the house come in."""
    raise errors.Unauthenticated("the API key is not valid")
