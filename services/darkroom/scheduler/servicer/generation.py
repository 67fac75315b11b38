"""GenerationService: the public door for media."""

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc

from darkroom import errors, page_tokens, rpc, validation
from darkroom.api.scheduler.v1 import generation_pb2, generation_service_pb2_grpc
from darkroom.api.scheduler.v1 import generation_service_pb2 as pb
from darkroom.scheduler import history
from darkroom.scheduler.domain import generation as domain
from darkroom.scheduler.servicer import create, quote, translate
from darkroom.scheduler.store import bell, events, explain, follow, generations

PAGE_SIZE_MAX = 200
PAGE_SIZE_DEFAULT = 50
PAGE_BYTES_MAX = 3 << 20  # of a message of 4 MiB

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class GenerationServicer(generation_service_pb2_grpc.GenerationServiceServicer):
    """Answers for the caller's tenant alone."""

    def __init__(
        self,
        *,
        acceptance: create.Acceptance,
        quotes: quote.Quotes,
        store: generations.Generations,
        changes: events.Events,
        follower: follow.Follow,
        the_bell: bell.Bell,
        pages: page_tokens.PageTokens,
        explanations: explain.Explain,
    ) -> None:
        self._acceptance = acceptance
        self._quotes = quotes
        self._store = store
        self._changes = changes
        self._follower = follower
        self._bell = the_bell
        self._pages = pages
        self._explain = explanations

    async def CreateGeneration(
        self, request: pb.CreateGenerationRequest, context: Context
    ) -> pb.CreateGenerationResponse:
        """Accept a request; answered means durable."""
        accepted = await self._acceptance.accept(rpc.principal().tenant_id, request)
        return pb.CreateGenerationResponse(generation=translate.generation(accepted))

    async def EstimateGeneration(
        self, request: pb.EstimateGenerationRequest, context: Context
    ) -> pb.EstimateGenerationResponse:
        """Predict a request without accepting it."""
        return await self._quotes.quote(rpc.principal().tenant_id, request)

    async def GetGeneration(self, request: pb.GetGenerationRequest, context: Context) -> pb.GetGenerationResponse:
        """Read one."""
        _check_id(request.generation_id)
        found = await self._store.get(tenant_id=rpc.principal().tenant_id, generation_id=request.generation_id)
        return pb.GetGenerationResponse(generation=translate.generation(found))

    async def ListGenerations(self, request: pb.ListGenerationsRequest, context: Context) -> pb.ListGenerationsResponse:
        """List the tenant's, newest first."""
        found = validation.Violations()
        found.integer("page_size", request.page_size, low=0, high=PAGE_SIZE_MAX)
        found.choice("state", request.state, generation_pb2.GenerationState.values())
        if request.model:
            found.name("model", request.model)
        found.raise_if_any()
        filters = generations.Filters(rpc.principal().tenant_id, translate.state_filter(request.state), request.model)
        scope = "generations:" + ":".join(filters)
        before_id = self._pages.read("page_token", request.page_token, scope)
        size = request.page_size or PAGE_SIZE_DEFAULT
        told, more = await _that_fit(self._store.page(filters, before_id=before_id, limit=size + 1), size)
        token = self._pages.make(scope, position=told[-1].generation_id) if more else ""
        return pb.ListGenerationsResponse(generations=told, next_page_token=token)

    async def CancelGeneration(
        self, request: pb.CancelGenerationRequest, context: Context
    ) -> pb.CancelGenerationResponse:
        """End one that waits, ask for the end of one that runs."""
        _check_id(request.generation_id)
        ended = await self._store.cancel(tenant_id=rpc.principal().tenant_id, generation_id=request.generation_id)
        self._bell.ring()
        return pb.CancelGenerationResponse(generation=translate.generation(ended))

    async def WatchGeneration(
        self, request: pb.WatchGenerationRequest, context: Context
    ) -> AsyncIterator[pb.WatchGenerationResponse]:
        """Stream every change of state, and progress between them, until the end."""
        _check_id(request.generation_id)
        generation_id, seen = request.generation_id, request.after_sequence
        latest = (await self._store.get(tenant_id=rpc.principal().tenant_id, generation_id=generation_id)).sequence
        if not 0 <= seen <= latest:
            raise errors.InvalidArgument.of("after_sequence", "must be from 0 to the generation's latest sequence")
        after = seen or latest - 1
        with self._follower.changes(generation_id) as changed:
            while True:
                changed.clear()
                news, is_final = await self._news(generation_id, after_sequence=after)
                for told in news:
                    yield pb.WatchGenerationResponse(generation=told)
                    after = told.sequence
                if is_final:
                    return
                await changed.wait()

    async def _news(self, generation_id: str, *, after_sequence: int) -> tuple[list[generation_pb2.Generation], bool]:
        """What a watcher has not been told, and whether it was all; who waits for more holds no pictures of the request."""
        snapshot = await self._changes.since(generation_id=generation_id, after_sequence=after_sequence)
        present = generations.read(snapshot.row)
        news = history.since(present, snapshot.events, after_sequence=after_sequence)
        return [translate.generation(each) for each in news], present.is_final

    async def ExplainGeneration(
        self, request: pb.ExplainGenerationRequest, context: Context
    ) -> pb.ExplainGenerationResponse:
        """Tell why it ran where it ran, or why it waits."""
        _check_id(request.generation_id)
        await self._store.get(tenant_id=rpc.principal().tenant_id, generation_id=request.generation_id)
        return pb.ExplainGenerationResponse(
            decisions=await self._explain.decisions(request.generation_id),
            waiting_reason=await self._explain.waiting_reason(request.generation_id),
        )


def _check_id(generation_id: str) -> None:
    found = validation.Violations()
    found.identifier("generation_id", generation_id, "gen")
    found.raise_if_any()


async def _that_fit(
    found: AsyncIterator[domain.Generation], count: int
) -> tuple[list[generation_pb2.Generation], bool]:
    """Tell the first of them, at most so many and as many as one message holds, and whether there are more; one at least."""
    told: list[generation_pb2.Generation] = []
    size_bytes = 0
    async for each in found:
        message = translate.generation(each)
        size_bytes += message.ByteSize()
        if len(told) == count or (told and size_bytes > PAGE_BYTES_MAX):
            return told, True
        told.append(message)
    return told, False
