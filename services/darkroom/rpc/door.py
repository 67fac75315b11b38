"""The front door of a server: every call of every kind passes here.

A call comes in from the wire; it gets its request id and span, is authenticated, and the room's handler runs (`shapes`
makes the four kinds one). Whatever the handler raises goes out as a rich status by `status`. Only a fault of ours is
logged as an error; cancellation is not one. Streams that have no end of their own are cut when the server drains.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc

from darkroom import errors, ids, telemetry
from darkroom.rpc import auth, methods, observe, shapes, status

#: Streams without a deadline: heartbeats guard them, or their callers resume them.
ENDLESS_STREAMS = frozenset(
    {
        "/darkroom.api.model_runner.v1.RunnerService/Work",
        "/darkroom.api.scheduler.v1.GenerationService/WatchGeneration",
    }
)
EXEMPT_SERVICES = frozenset({"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"})

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_log = logging.getLogger(__name__)


def request_id() -> str:
    """The id of the call being served, "" outside of one; every log line and error of the call has it."""
    return telemetry.request_id.get()


class Door(grpc.aio.ServerInterceptor):
    """The interceptor of one server."""

    def __init__(self, authenticator: auth.Authenticator) -> None:
        self._authenticator = authenticator
        self._adapted: dict[str, shapes.Handler] = {}
        self._endless: set[asyncio.Task[Any]] = set()
        self._draining = False

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[shapes.Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> shapes.Handler | None:
        """Put the room's handler behind the door; health and reflection stay before it."""
        path = handler_call_details.method
        if path in self._adapted:
            return self._adapted[path]
        handler = await continuation(handler_call_details)
        if handler is None or path.split("/")[1] in EXEMPT_SERVICES:
            return handler
        self._adapted[path] = self._adapt(path, handler)
        return self._adapted[path]

    def drain(self) -> None:
        """End the endless streams with UNAVAILABLE: their callers resume elsewhere."""
        self._draining = True
        for task in self._endless:
            task.cancel()

    def _adapt(self, path: str, handler: shapes.Handler) -> shapes.Handler:
        method = methods.table().get(path)

        async def around(run: Callable[[], Awaitable[Any]], context: shapes.Context) -> Any:
            metadata = [(str(key), value) for key, value in context.invocation_metadata() or ()]
            current_id = _read_request_id(metadata)
            telemetry.request_id.set(current_id)
            context.set_trailing_metadata((("x-request-id", current_id),))
            with observe.serving(path, metadata) as call, self._tracked(path):
                try:
                    auth.enter(await self._authenticator.admit(method, metadata))
                    return await run()
                except (asyncio.CancelledError, Exception) as raised:
                    error = self._judge(raised, call, path, context)
                await _refuse(error, call, context, current_id)

        return shapes.adapt(handler, around, request_name=method.request if method else path)

    def _judge(
        self, raised: BaseException, call: observe.Call, path: str, context: shapes.Context
    ) -> errors.DarkroomError:
        """Tell what the caller hears; what needs no answer any more is raised again."""
        if isinstance(raised, asyncio.CancelledError):
            if self._draining and path in ENDLESS_STREAMS and not context.cancelled():
                return errors.Unavailable("this server is stopping; resume on another", retry_after_s=0.0)
            late = context.time_remaining() is not None and context.time_remaining() <= 0
            call.code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
            raise raised
        if isinstance(raised, grpc.aio.AbortError):
            call.code = context.code()
            raise raised
        public = status.public(raised)
        if isinstance(public, errors.Internal):
            _log.error("a call failed by a fault of ours", exc_info=raised, extra={"method": path})
        return public

    @contextlib.contextmanager
    def _tracked(self, path: str) -> Iterator[None]:
        task = asyncio.current_task()
        if path not in ENDLESS_STREAMS or task is None:
            yield
            return
        self._endless.add(task)
        try:
            yield
        finally:
            self._endless.discard(task)


async def _refuse(error: errors.DarkroomError, call: observe.Call, context: shapes.Context, current_id: str) -> None:
    call.code = grpc.StatusCode[error.code]
    rich = status.to_status(error, request_id=current_id)
    trailing = ((status.DETAILS_KEY, rich.SerializeToString()), ("x-request-id", current_id))
    await context.abort(call.code, rich.message, trailing)


def _read_request_id(metadata: auth.Metadata) -> str:
    for key, value in metadata:
        if key == "x-request-id" and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return ids.new("req")
