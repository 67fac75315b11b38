"""One call, as its caller sees it: grpc.aio's own, with two faults of its Python layer mended.

`client` makes a `Call` of every call that it starts; the generated stubs' callers await it, iterate over it, read and write.

A cancellation is not lost. grpc.aio awaits tasks of its own that swallow it; when the call ends by itself in the same moment, the
caller gets that end and goes on. A loop that dials again would then never be stopped.

A refusal is not hidden. When the server ends a stream while the client still writes, the write fails and sets the status INTERNAL
"Internal error from Core", before or after the server's own status comes (of 300 refused streams each way, 94 ended so). Here the
server's status stands, whichever came first; it always comes, as the core reports each call's end exactly once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Self, TypeVar

import grpc

_HIDES = (grpc.StatusCode.INTERNAL, "Internal error from Core")

_T = TypeVar("_T")


class Call:
    """A call under way; what is not here is the inner call's. `on_end` hears the code, once."""

    def __init__(self, inner: Any, on_end: Callable[[grpc.StatusCode], None]) -> None:
        self._inner = inner
        self._on_end = on_end
        self._messages: Any = None
        self._over = asyncio.Event()
        self._end: grpc.aio.AioRpcError
        inner.add_done_callback(self._note)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._mend(self._inner).__await__()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if self._messages is None:
            self._messages = aiter(self._inner)
        message = await self._mend(anext(self._messages, grpc.aio.EOF))
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return message

    async def read(self) -> Any:
        """Read one message; EOF after the last."""
        return await self._mend(self._inner.read())

    async def write(self, message: Any) -> None:
        """Write one message."""
        await self._mend(self._inner.write(message))

    async def code(self) -> grpc.StatusCode:
        """Wait for the end; its code."""
        return (await self._ended()).code()

    async def details(self) -> str | None:
        """Wait for the end; its text."""
        return (await self._ended()).details()

    async def trailing_metadata(self) -> Any:
        """Wait for the end; what came with it."""
        return (await self._ended()).trailing_metadata()

    async def _ended(self) -> grpc.aio.AioRpcError:
        await self._over.wait()
        return self._end

    async def _mend(self, waiting: Awaitable[_T]) -> _T | Any:
        """Await the inner call; EOF if only its writing failed."""
        cancels = _cancels()
        try:
            got = await waiting
        except grpc.aio.AioRpcError as error:
            if _cancels() > cancels:
                raise asyncio.CancelledError from error
            if not _hides(error):
                raise
            end = await self._ended()
            if end.code() is not grpc.StatusCode.OK:
                raise end from None
            return grpc.aio.EOF
        if _cancels() > cancels:
            raise asyncio.CancelledError
        return got

    def _note(self, inner: Any) -> None:
        """Keep the first status that is the call's own; called for each that is set."""
        end = grpc.aio.AioRpcError(
            _known(inner.code()),
            _known(inner.initial_metadata()),
            _known(inner.trailing_metadata()),
            details=_known(inner.details()),
            debug_error_string=_known(inner.debug_error_string()),
        )
        if not self._over.is_set() and not _hides(end):
            self._end = end
            self._over.set()
            self._on_end(end.code())


def _hides(error: grpc.aio.AioRpcError) -> bool:
    return (error.code(), error.details()) == _HIDES


def _cancels() -> int:
    """How often the present task was asked to end."""
    task = asyncio.current_task()
    return task.cancelling() if task else 0


def _known(answer: Coroutine[Any, Any, _T]) -> _T:
    """The answer of a coroutine that has nothing to wait for, without giving way: the next status may come in between."""
    try:
        answer.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]  # StopIteration's is untyped
    raise RuntimeError("a call that has ended does not know how")
