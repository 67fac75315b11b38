"""Spans and durations of both sides, one trace through both, with nothing in them that a caller sent."""

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from darkroom.api.billing_meter.v1 import account_service_pb2, account_service_pb2_grpc
from darkroom.rpc import observe

from .conftest import OPERATOR_KEY

METHOD = "darkroom.api.billing_meter.v1.AccountService/CreateTenant"
CANARY = "canary-prompt"


@pytest.fixture
def spans(monkeypatch):
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(observe, "_tracer", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


@pytest.fixture
def reader(monkeypatch):
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    meter = provider.get_meter("test")
    monkeypatch.setattr(observe, "_server_duration", meter.create_histogram("rpc.server.call.duration"))
    monkeypatch.setattr(observe, "_client_duration", meter.create_histogram("rpc.client.call.duration"))
    yield reader
    provider.shutdown()


async def _call(room, credential=OPERATOR_KEY, metadata=None):
    async with room.channel(credential) as channel:
        stub = account_service_pb2_grpc.AccountServiceStub(channel)
        await stub.CreateTenant(account_service_pb2.CreateTenantRequest(name=CANARY), metadata=metadata)


async def _by_kind(room, spans):
    await room.server.stop()  # the caller has its answer before the server has ended the span
    return {span.kind: span for span in spans.get_finished_spans()}


async def test_one_trace_goes_through_both_sides(room, spans):
    await _call(room)
    found = await _by_kind(room, spans)
    client, server = found[trace.SpanKind.CLIENT], found[trace.SpanKind.SERVER]
    assert server.context.trace_id == client.context.trace_id
    assert server.parent.span_id == client.context.span_id
    for span in (client, server):
        assert span.name == METHOD
        assert span.attributes == {
            "rpc.system.name": "grpc",
            "rpc.method": METHOD,
            "rpc.response.status_code": "OK",
        }
        assert CANARY not in span.to_json()
        assert OPERATOR_KEY not in span.to_json()


async def test_the_handlers_own_spans_are_children(room, spans):
    inside = []

    async def act():
        inside.append(trace.get_current_span().get_span_context())

    room.accounts.act = act
    await _call(room)
    assert inside[0] == (await _by_kind(room, spans))[trace.SpanKind.SERVER].context


async def test_a_malformed_traceparent_starts_a_new_trace(room, spans):
    observed, _ = observe.calling("/x/Y")
    async with grpc.aio.insecure_channel(room.address) as channel:
        metadata = (("authorization", f"Bearer {OPERATOR_KEY}"), ("traceparent", "00-nonsense"))
        await channel.unary_unary(f"/{METHOD}")(b"", metadata=metadata, timeout=10)
    assert (await _by_kind(room, spans))[trace.SpanKind.SERVER].parent is None
    observed.end()


async def test_whose_fault_an_error_is_shows_in_the_status(room, spans):
    with pytest.raises(grpc.aio.AioRpcError):
        await _call(room, credential="dk_bad")
    found = await _by_kind(room, spans)
    assert found[trace.SpanKind.SERVER].attributes["rpc.response.status_code"] == "UNAUTHENTICATED"
    assert found[trace.SpanKind.SERVER].status.status_code is trace.StatusCode.UNSET
    assert found[trace.SpanKind.CLIENT].status.status_code is trace.StatusCode.ERROR


async def test_durations_are_counted_by_method_and_code(room, reader):
    await _call(room)
    await _call(room)
    with pytest.raises(grpc.aio.AioRpcError):
        await _call(room, credential="dk_bad")
    await room.server.stop()
    data = reader.get_metrics_data()
    found = {
        (metric.name, point.attributes["rpc.method"], point.attributes["rpc.response.status_code"]): point.count
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
        for point in metric.data.data_points
    }
    assert found == {
        (f"rpc.{side}.call.duration", METHOD, code): count
        for side in ("client", "server")
        for code, count in (("OK", 2), ("UNAUTHENTICATED", 1))
    }
