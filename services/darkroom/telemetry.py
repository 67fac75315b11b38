"""Logs, traces and metrics of one process.

The process's entry calls `setup` once, before the room starts; everybody else uses `logging.getLogger`,
`trace.get_tracer` and `metrics.get_meter`. Logs go to standard error, one JSON object a line, with the ids of the trace
and of the request; spans and metrics go to an OTLP collector and metrics to a Prometheus endpoint, where configured.
Prompts and secrets are in none of them: an exception is logged by its type and its frames, never by its message, which
may hold what a caller sent.
"""

import contextlib
import contextvars
import datetime
import json
import logging
import sys
import traceback
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol

import prometheus_client
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

#: The request being served, "" outside of one; `rpc` sets it, every log line carries it.
request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Config(Protocol):
    """The settings read here; every room's config has them."""

    @property
    def otlp_endpoint(self) -> str:
        """URL of an OTLP/gRPC collector, or empty."""
        ...

    @property
    def metrics_address(self) -> str:
        """host:port of the Prometheus endpoint, or empty."""
        ...

    @property
    def log_level(self) -> str:
        """Name of the least level logged."""
        ...


class Telemetry:
    """What `setup` started; `shutdown` sends what is left and closes it."""

    def __init__(self) -> None:
        self._closing = contextlib.ExitStack()

    def on_shutdown(self, close: Callable[[], object]) -> None:
        """Add something to close, the last one first."""
        self._closing.callback(close)

    def shutdown(self) -> None:
        """Flush and stop exporters and the Prometheus endpoint."""
        self._closing.close()


def setup(room: str, config: Config) -> Telemetry:
    """Configure this process's logs, traces and metrics for a room; ValueError on an unknown log level."""
    started = Telemetry()
    _log_json(room, config.log_level)
    resource = Resource.create(
        {"service.namespace": "darkroom", "service.name": room, "service.instance.id": str(uuid.uuid4())}
    )
    _trace(started, resource, config.otlp_endpoint)
    _measure(started, resource, config)
    return started


def frames(error: BaseException) -> list[str]:
    """Describe where an exception came from, cause first, without its message: "file:line function" for each frame."""
    chain: list[str] = []
    seen: BaseException | None = error
    while seen is not None:
        below = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(seen.__traceback__)]
        chain[:0] = [*below, f"{type(seen).__module__}.{type(seen).__qualname__}"]
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return chain


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON; whatever was given as `extra` becomes a field."""

    def __init__(self, room: str) -> None:
        super().__init__()
        self._room = room

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object without line ends."""
        line: dict[str, Any] = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="microseconds"),
            "level": record.levelname,
            "room": self._room,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if current := request_id.get():
            line["request_id"] = current
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            line |= {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"}
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = frames(record.exc_info[1])
        return json.dumps(line, default=str, ensure_ascii=True)


def _log_json(room: str, level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(room))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught


def _log_uncaught(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    logging.getLogger(__name__).critical("the process ends by an uncaught exception", exc_info=(kind, error, where))


def _trace(started: Telemetry, resource: Resource, otlp_endpoint: str) -> None:
    provider = TracerProvider(resource=resource)
    if otlp_endpoint:
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=otlp_endpoint)))
    trace.set_tracer_provider(provider)
    started.on_shutdown(provider.shutdown)


def _measure(started: Telemetry, resource: Resource, config: Config) -> None:
    readers: list[MetricReader] = []
    if config.otlp_endpoint:
        readers.append(PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=config.otlp_endpoint)))
    if config.metrics_address:
        registry = prometheus_client.CollectorRegistry()
        readers.append(PrometheusMetricReader(registry=registry))
        host, _, port = config.metrics_address.rpartition(":")
        server, thread = prometheus_client.start_http_server(int(port), addr=host, registry=registry)
        started.on_shutdown(thread.join)
        started.on_shutdown(server.server_close)
        started.on_shutdown(server.shutdown)
    provider = MeterProvider(metric_readers=readers, resource=resource)
    metrics.set_meter_provider(provider)
    started.on_shutdown(provider.shutdown)
