"""What is seen of a call from outside: a span and a duration, on both sides.

`door` and `client` enter a call here and say how it ended. Traces go from one room to the next in the W3C `traceparent`
metadata; names are OpenTelemetry's conventions for RPC. Attributes hold the method and the code, nothing that a caller
sent.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator

import grpc
from opentelemetry import context, metrics, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_tracer = trace.get_tracer("darkroom.rpc")
_meter = metrics.get_meter("darkroom.rpc")
_propagator = TraceContextTextMapPropagator()
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_server_duration = _meter.create_histogram(
    "rpc.server.call.duration",
    unit="s",
    description="How long calls took at the server.",
    explicit_bucket_boundaries_advisory=_BUCKETS_S,
)
_client_duration = _meter.create_histogram(
    "rpc.client.call.duration",
    unit="s",
    description="How long calls took at the client.",
    explicit_bucket_boundaries_advisory=_BUCKETS_S,
)
_OUR_FAULT = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})


class Call:
    """One call under way; `code` is how it ends."""

    def __init__(self, path: str, kind: trace.SpanKind, parent: context.Context | None = None) -> None:
        self.code = grpc.StatusCode.OK
        self._started_s = time.monotonic()
        self._kind = kind
        self._attributes = {"rpc.system.name": "grpc", "rpc.method": path.removeprefix("/")}
        self.span = _tracer.start_span(self._attributes["rpc.method"], parent, kind, self._attributes)

    def end(self) -> None:
        """Record how long it took and how it ended."""
        name = self.code.name
        attributes = {**self._attributes, "rpc.response.status_code": name}
        histogram = _server_duration if self._kind is trace.SpanKind.SERVER else _client_duration
        histogram.record(time.monotonic() - self._started_s, attributes)
        self.span.set_attribute("rpc.response.status_code", name)
        if name in _OUR_FAULT or (self._kind is trace.SpanKind.CLIENT and name != "OK"):
            self.span.set_status(trace.StatusCode.ERROR, name)
        self.span.end()

    @property
    def duration_ms(self) -> float:
        """Milliseconds so far."""
        return (time.monotonic() - self._started_s) * 1000


@contextlib.contextmanager
def serving(path: str, metadata: Iterable[tuple[str, str | bytes]]) -> Iterator[Call]:
    """Watch a call at the server, as a child of the caller's span; a malformed traceparent starts a new trace."""
    carrier = {key: value for key, value in metadata if isinstance(value, str)}
    call = Call(path, trace.SpanKind.SERVER, _propagator.extract(carrier))
    try:
        with trace.use_span(call.span, record_exception=False, set_status_on_exception=False):
            yield call
    finally:
        call.end()


def calling(path: str) -> tuple[Call, list[tuple[str, str]]]:
    """Watch a call at the client until its `end`; also the metadata that carries its trace."""
    call = Call(path, trace.SpanKind.CLIENT)
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, trace.set_span_in_context(call.span))
    return call, list(carrier.items())
