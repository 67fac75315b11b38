"""RunnerService: the one stream between the owner of the pool and this runner.

Requests go to `aboard`, which says what goes back; this module only joins the two halves of the stream.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeAlias

import grpc

from darkroom import errors
from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.api.model_runner.v1 import runner_service_pb2_grpc
from darkroom.model_runner import aboard

_Work: TypeAlias = "grpc.aio.ServicerContext[pb.WorkRequest, pb.WorkResponse]"


class RunnerServicer(runner_service_pb2_grpc.RunnerServiceServicer):
    """Serves `Work` from what is aboard."""

    def __init__(self, attempts: aboard.Aboard) -> None:
        self._aboard = attempts

    async def Work(
        self, request_iterator: AsyncIterator[pb.WorkRequest], context: _Work
    ) -> AsyncIterator[pb.WorkResponse]:
        """Follow one owner until it leaves or another takes over."""
        first = await anext(aiter(request_iterator), None)
        if first is None or not first.HasField("hello"):
            raise errors.InvalidArgument.of("hello", "must be the first message of the stream")
        session = self._aboard.open(first.hello)
        reading = asyncio.create_task(self._read(request_iterator, session))
        try:
            while (response := await session.queue.get()) is not None:
                if isinstance(response, Exception):
                    raise response
                yield response
        finally:
            reading.cancel()
            self._aboard.close(session)

    async def _read(self, requests: AsyncIterator[pb.WorkRequest], session: aboard.Session) -> None:
        """Take requests until the owner has said all, or one that is no request; then the stream ends."""
        try:
            async for request in requests:
                self._aboard.take(session, request)
        except Exception as error:  # raised again where the stream is written
            session.queue.put_nowait(error)
        else:
            session.queue.put_nowait(None)
