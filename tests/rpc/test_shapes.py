"""A handler of each kind, adapted: it runs as it did, and malformed messages and lateness become errors of the tree."""

import asyncio

import grpc
import pytest
from google.protobuf import wrappers_pb2

from darkroom import errors
from darkroom.rpc import shapes

Text = wrappers_pb2.StringValue


class Context:
    """What a handler writes its stream to."""

    def __init__(self):
        self.written = []

    async def write(self, message):
        self.written.append(message)


async def _pass(run, context):
    return await run()


def _adapt(make, behaviour):
    handler = make(behaviour, request_deserializer=Text.FromString, response_serializer=Text.SerializeToString)
    return shapes.adapt(handler, _pass, request_name="x.Request")


async def _requests(*data, handler):
    for one in data:
        yield handler.request_deserializer(one)


async def test_a_unary_handler():
    async def shout(request, context):
        return Text(value=request.value.upper())

    handler = _adapt(grpc.unary_unary_rpc_method_handler, shout)
    assert (await handler.unary_unary(Text(value="a"), Context())).value == "A"
    with pytest.raises(errors.InvalidArgument) as caught:
        await handler.unary_unary(handler.request_deserializer(b"\x0a\x01\xff"), Context())
    assert caught.value.violations[0].field == "x.Request"


async def test_a_handler_that_yields_is_closed_when_the_caller_goes():
    closed = []

    async def count(request, context):
        try:
            for _ in range(3):
                yield request
        finally:
            closed.append(True)

    handler = _adapt(grpc.unary_stream_rpc_method_handler, count)
    context = Context()
    await handler.unary_stream(Text(value="a"), context)
    assert [message.value for message in context.written] == ["a"] * 3

    async def gone(message):
        raise asyncio.CancelledError

    context.write = gone
    with pytest.raises(asyncio.CancelledError):
        await handler.unary_stream(Text(value="a"), context)
    assert closed == [True, True]


async def test_a_handler_that_writes_to_the_context():
    async def write(request, context):
        await context.write(request)

    context = Context()
    await _adapt(grpc.unary_stream_rpc_method_handler, write).unary_stream(Text(value="a"), context)
    assert [message.value for message in context.written] == ["a"]


@pytest.mark.parametrize("make", [grpc.stream_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler])
async def test_a_malformed_message_in_a_stream_stops_it_there(make):
    seen = []

    async def collect(requests, context):
        async for request in requests:
            seen.append(request.value)

    handler = _adapt(make, collect)
    behaviour = handler.stream_unary or handler.stream_stream
    stream = _requests(Text(value="a").SerializeToString(), b"\xff", b"", handler=handler)
    with pytest.raises(errors.InvalidArgument):
        await behaviour(stream, Context())
    assert seen == ["a"]


async def test_only_the_limits_own_timeout_is_deadline_exceeded(monkeypatch):
    async def late(request, context):
        await asyncio.Event().wait()

    async def fails(request, context):
        raise TimeoutError

    monkeypatch.setattr(shapes, "UNARY_TIMEOUT_S", 0.01)
    with pytest.raises(errors.DeadlineExceeded):
        await _adapt(grpc.unary_unary_rpc_method_handler, late).unary_unary(Text(), Context())
    with pytest.raises(TimeoutError):
        await _adapt(grpc.unary_unary_rpc_method_handler, fails).unary_unary(Text(), Context())
