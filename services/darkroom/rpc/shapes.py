"""The four kinds of calls, made one.

A room's handler comes in (unary or streaming on either side); a handler of the same kind goes out, in which `door` runs
the room's code as one awaitable. On the way every message is checked: bytes that are not the request's message, or hold
text that is not UTF-8, become InvalidArgument (grpc itself would answer UNKNOWN).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple, TypeAlias

import grpc
from google.protobuf import message

from darkroom import errors

UNARY_TIMEOUT_S = 60.0

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Behaviour: TypeAlias = Callable[[Any, Context], Any]
Around: TypeAlias = Callable[[Callable[[], Awaitable[Any]], Context], Awaitable[Any]]

_MAKERS: dict[tuple[bool, bool], Callable[..., Handler]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


class _Malformed(NamedTuple):
    """Stands for a message whose bytes could not be read."""


def adapt(handler: Handler, around: Around, *, request_name: str) -> Handler:
    """Make a handler that calls `around(run, context)`; awaiting `run()` reads, runs and writes as `handler` would."""
    kind = (handler.request_streaming, handler.response_streaming)
    inner: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    answer: Behaviour = _stream_answer(inner) if handler.response_streaming else inner
    check = _each_well_formed if handler.request_streaming else _well_formed
    timeout_s = None if any(kind) else UNARY_TIMEOUT_S

    async def serve(request: Any, context: Context) -> Any:
        async def run() -> Any:
            async with _limit(timeout_s):
                return await answer(check(request, request_name), context)

        return await around(run, context)

    return _MAKERS[kind](serve, _tolerant(handler.request_deserializer), handler.response_serializer)


def _tolerant(deserialise: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    if deserialise is None:
        raise TypeError("a handler without a deserialiser")

    def read(data: bytes) -> Any:
        try:
            return deserialise(data)
        except message.DecodeError:
            return _Malformed()

    return read


def _well_formed(request: Any, request_name: str) -> Any:
    if isinstance(request, _Malformed):
        raise errors.InvalidArgument.of(request_name, "must be this message, with every string in UTF-8")
    return request


async def _each_well_formed(requests: AsyncIterator[Any], request_name: str) -> AsyncIterator[Any]:
    async for request in requests:
        yield _well_formed(request, request_name)


def _stream_answer(inner: Behaviour) -> Behaviour:
    async def answer(request: Any, context: Context) -> None:
        result = inner(request, context)
        if not hasattr(result, "__aiter__"):  # a coroutine that writes to the context itself
            await result
            return
        async with contextlib.aclosing(result) as messages:
            async for one in messages:
                await context.write(one)

    return answer


@contextlib.asynccontextmanager
async def _limit(timeout_s: float | None) -> AsyncIterator[None]:
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if limit.expired():
            raise errors.DeadlineExceeded(f"the call took longer than {timeout_s:g} s") from error
        raise
