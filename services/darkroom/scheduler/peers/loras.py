"""lora_store as admission needs it: is this adapter the tenant's, and made for this model?

Asked with a capability of the tenant, so that lora_store itself decides; another tenant's adapter is NotFound there as here.
"""

import asyncio
from collections.abc import Sequence

import grpc

from darkroom import errors, rpc, tokens
from darkroom.api.lora_store.v1 import lora_service_pb2, lora_service_pb2_grpc

CAPABILITY_S = 60.0


class Loras:
    """Calls LoraService over one channel."""

    def __init__(self, channel: grpc.aio.Channel, *, service_secret: str) -> None:
        self._stub = lora_service_pb2_grpc.LoraServiceStub(channel)
        self._secret = service_secret

    async def check(
        self, adapter_ids: Sequence[str], *, field: str, tenant_id: str, generation_id: str, model: str
    ) -> None:
        """Return if the tenant has every adapter, each made for `model`; NotFound or InvalidArgument on `field` otherwise."""
        if not adapter_ids:
            return
        capability = tokens.capability(
            self._secret,
            tenant_id=tenant_id,
            generation_id=generation_id,
            scopes=("loras.read",),
            expires_in_s=CAPABILITY_S,
        )
        base_models = await asyncio.gather(*(self._base_model(adapter_id, capability) for adapter_id in adapter_ids))
        violations = [
            errors.FieldViolation(f"{field}[{index}].adapter_id", "was made for another model")
            for index, base_model in enumerate(base_models)
            if base_model != model
        ]
        if violations:
            raise errors.InvalidArgument(violations)

    async def _base_model(self, adapter_id: str, capability: str) -> str:
        try:
            answer = await self._stub.GetLora(
                lora_service_pb2.GetLoraRequest(adapter_id=adapter_id),
                metadata=(("authorization", f"Bearer {capability}"),),
            )
        except grpc.aio.AioRpcError as error:
            raise rpc.from_rpc_error(error) from error
        return answer.lora.base_model
