from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint

from darkroom.model_runner import meters
from darkroom.model_runner.engine.job import Snapshot


def test_the_engines_numbers_are_read_when_they_are_exported() -> None:
    snapshot = Snapshot(
        busy_us=100,
        platform_us=30,
        jobs_waiting=5,
        rows_live=3,
        models=(),
        step_costs=(),
        slowdown=1.0,
        texts_remembered=4,
        texts_encoded=2,
        merged_bytes=24,
        host_cache_bytes=64,
    )
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    meters.observe(provider.get_meter("test"), lambda: snapshot)
    read = reader.get_metrics_data()
    assert read is not None
    told = {
        (metric.name, *(point.attributes or {}).values()): point.value
        for metric in read.resource_metrics[0].scope_metrics[0].metrics
        for point in metric.data.data_points
        if isinstance(point, NumberDataPoint)
    }
    provider.shutdown()
    assert told == {
        ("darkroom.model_runner.jobs_waiting",): 5,
        ("darkroom.model_runner.rows_live",): 3,
        ("darkroom.model_runner.merged",): 24,
        ("darkroom.model_runner.host_cache",): 64,
        ("darkroom.model_runner.busy", "generations"): 70,
        ("darkroom.model_runner.busy", "platform"): 30,
        ("darkroom.model_runner.embeddings", "hit"): 4,
        ("darkroom.model_runner.embeddings", "miss"): 2,
    }
