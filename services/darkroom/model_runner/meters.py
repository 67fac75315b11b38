"""What the engine shows of itself as OpenTelemetry metrics.

A way to look at the engine comes in; whoever exports the process's metrics reads the numbers as they are then. Next: `server` has it
done once, when the engine runs.
"""

from collections.abc import Callable, Iterator

from opentelemetry import metrics

from darkroom.model_runner.engine import job as engine_job


def observe(meter: metrics.Meter, look: Callable[[], engine_job.Snapshot]) -> None:
    """Have the meter read the engine's busy time, its queue, its rows, its memory, and what its embedding cache saved."""

    def busy(_options: metrics.CallbackOptions) -> Iterator[metrics.Observation]:
        seen = look()
        yield metrics.Observation(seen.busy_us - seen.platform_us, {"account": "generations"})
        yield metrics.Observation(seen.platform_us, {"account": "platform"})

    def texts(_options: metrics.CallbackOptions) -> Iterator[metrics.Observation]:
        seen = look()
        yield metrics.Observation(seen.texts_remembered, {"result": "hit"})
        yield metrics.Observation(seen.texts_encoded, {"result": "miss"})

    def gauge(name: str, field: str, unit: str, description: str) -> None:
        def read(_options: metrics.CallbackOptions) -> Iterator[metrics.Observation]:
            yield metrics.Observation(getattr(look(), field))

        meter.create_observable_gauge(f"darkroom.model_runner.{name}", [read], unit=unit, description=description)

    gauge("jobs_waiting", "jobs_waiting", "{generation}", "generations aboard that have not begun")
    gauge("rows_live", "rows_live", "{row}", "images, videos and sounds under way")
    gauge("merged", "merged_bytes", "By", "accelerator memory of weights with merged LoRAs, beside the models' own")
    gauge("host_cache", "host_cache_bytes", "By", "host memory of models off the accelerator")
    meter.create_observable_counter(
        "darkroom.model_runner.busy", [busy], unit="us", description="time the engine has worked, by who bears it"
    )
    meter.create_observable_counter(
        "darkroom.model_runner.embeddings", [texts], description="texts looked up in the cache of prompt embeddings"
    )
