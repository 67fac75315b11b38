"""A process's logs are JSON without secrets; its metrics and spans reach Prometheus and a collector."""

import json
import subprocess
import sys
import textwrap
import urllib.request
from concurrent import futures

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from darkroom import telemetry

PREAMBLE = """
import asyncio, logging, sys, urllib.request, warnings
from opentelemetry import metrics, trace
from darkroom import settings, telemetry
config = settings.load(settings.Room)
handle = telemetry.setup("scheduler", config)
log = logging.getLogger("darkroom.test")
"""


def _run(body, **environ):
    """Run a process that sets telemetry up, as global providers can be set only once in one."""
    variables = {f"DARKROOM_{name.upper()}": value for name, value in environ.items()}
    variables |= {"DARKROOM_SERVICE_SECRET": "s" * 32, "PYTHONPATH": ":".join(sys.path)}
    script = PREAMBLE + textwrap.dedent(body)
    return subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, text=True, timeout=60)


def _lines(done):
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_a_line_holds_its_facts_and_ids():
    done = _run(
        """
        with trace.get_tracer("t").start_as_current_span("s"):
            telemetry.request_id.set("req_1")
            log.info("placed %s", "well", extra={"generation_id": "gen_1"})
        handle.shutdown()
        """
    )
    (line,) = _lines(done)
    assert (line["level"], line["room"], line["logger"]) == ("INFO", "scheduler", "darkroom.test")
    assert (line["message"], line["generation_id"], line["request_id"]) == ("placed well", "gen_1", "req_1")
    assert len(line["trace_id"]) == 32
    assert len(line["span_id"]) == 16
    assert line["time"].endswith("+00:00")


def test_an_exception_shows_its_frames_and_not_its_message():
    done = _run(
        """
        def inner():
            raise ValueError("canary")
        try:
            try:
                inner()
            except ValueError as error:
                raise KeyError("canary") from error
        except KeyError:
            log.exception("it failed")
        log.info("forged\\n{}")
        inner()
        """
    )
    failed, forged, uncaught = _lines(done)
    assert done.returncode == 1
    assert "canary" not in done.stderr
    assert failed["exception"][-1] == "builtins.KeyError"
    assert "builtins.ValueError" in failed["exception"]
    assert any(frame.endswith(" inner") for frame in failed["exception"])
    assert forged["message"] == "forged\n{}"
    assert uncaught["level"] == "CRITICAL"


def test_the_level_is_a_setting():
    assert [line["message"] for line in _lines(_run("log.info('a'); log.warning('b')", log_level="warning"))] == ["b"]


def test_prometheus_is_served_where_configured(free_port):
    done = _run(
        f"""
        metrics.get_meter("t").create_counter("pictures").add(3)
        print(urllib.request.urlopen("http://127.0.0.1:{free_port}/metrics").read().decode())
        handle.shutdown()
        """,
        metrics_address=f"127.0.0.1:{free_port}",
    )
    assert done.returncode == 0, done.stderr
    assert 'pictures_total{otel_scope_name="t"' in done.stdout
    assert 'service_name="scheduler"' in done.stdout
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{free_port}/metrics")


class Collector(trace_service_pb2_grpc.TraceServiceServicer, metrics_service_pb2_grpc.MetricsServiceServicer):
    """An OTLP collector that keeps the names it is sent."""

    def __init__(self):
        self.names = set()

    def Export(self, request, context):
        if isinstance(request, trace_service_pb2.ExportTraceServiceRequest):
            scopes = [scope for resource in request.resource_spans for scope in resource.scope_spans]
            self.names |= {span.name for scope in scopes for span in scope.spans}
            return trace_service_pb2.ExportTraceServiceResponse()
        scopes = [scope for resource in request.resource_metrics for scope in resource.scope_metrics]
        self.names |= {metric.name for scope in scopes for metric in scope.metrics}
        return metrics_service_pb2.ExportMetricsServiceResponse()


def test_spans_and_metrics_reach_the_collector_before_the_end():
    collector = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    done = _run(
        """
        with trace.get_tracer("t").start_as_current_span("developing"):
            metrics.get_meter("t").create_counter("pictures").add(1)
        handle.shutdown()
        """,
        otlp_endpoint=f"http://127.0.0.1:{port}",
    )
    server.stop(None).wait()
    assert done.returncode == 0, done.stderr
    assert collector.names >= {"developing", "pictures"}


def test_frames_of_an_error_without_a_traceback():
    assert telemetry.frames(ValueError("canary")) == ["builtins.ValueError"]
