"""ModelService: the catalogue as served."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import grpc

from darkroom import catalog, errors, page_tokens, validation
from darkroom.api.scheduler.v1 import model_service_pb2 as pb
from darkroom.api.scheduler.v1 import model_service_pb2_grpc
from darkroom.scheduler.peers import billing
from darkroom.scheduler.servicer import create, translate

PAGE_SIZE_MAX = 200
PAGE_SIZE_DEFAULT = 50

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class ModelServicer(model_service_pb2_grpc.ModelServiceServicer):
    """Answers from the catalogue that this replica read when it started, with the prices that billing_meter has in force."""

    def __init__(
        self,
        models: Mapping[str, catalog.ModelEntry],
        forecast: create.Forecast,
        prices: billing.Prices,
        pages: page_tokens.PageTokens,
    ) -> None:
        self._models = models
        self._forecast = forecast
        self._prices = prices
        self._pages = pages

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """List the models by name."""
        found = validation.Violations()
        found.integer("page_size", request.page_size, low=0, high=PAGE_SIZE_MAX)
        found.raise_if_any()
        after = self._pages.read("page_token", request.page_token, "models")
        names = sorted(name for name in self._models if name > after)
        size = request.page_size or PAGE_SIZE_DEFAULT
        more = self._pages.make("models", position=names[size - 1]) if len(names) > size else ""
        return pb.ListModelsResponse(models=await self._told(names[:size]), next_page_token=more)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """Read one model."""
        found = validation.Violations()
        found.name("name", request.name)
        found.raise_if_any()
        if request.name not in self._models:
            raise errors.NotFound("model", request.name)
        [model] = await self._told([request.name])
        return pb.GetModelResponse(model=model)

    async def _told(self, names: Sequence[str]) -> list[pb.Model]:
        prices = await self._prices.known()
        return [
            translate.model(
                self._models[name],
                runners=self._forecast.runners(name),
                price=prices[name].rates if name in prices else self._models[name].price,
            )
            for name in names
        ]
