"""What the engine shows of itself as OpenTelemetry metrics.

A way to look at the engine comes in; whoever exports the process's metrics reads the numbers as they are then. Next: `server` has it
done once, when the engine runs.
"""

from collections.abc import Callable, Iterator

from opentelemetry import metrics

from darkroom.model_runner.engine import job as engine_job


def observe(meter: metrics.Meter, look: Callable[[], engine_job.Snapshot]) -> None:
    """Have the meter read the engine's busy time, what its embedding cache saved, and what its host cache holds."""

    def busy(_options: metrics.CallbackOptions) -> Iterator[metrics.Observation]:
        seen = look()
        yield metrics.Observation(seen.busy_us - seen.platform_us, {"account": "generations"})
        yield metrics.Observation(seen.platform_us, {"account": "platform"})

    def texts(_options: metrics.CallbackOptions) -> Iterator[metrics.Observation]:
        seen = look()
        yield metrics.Observation(seen.texts_remembered, {"result": "hit"})
        yield metrics.Observation(seen.texts_encoded, {"result": "miss"})

    def kept(_options: metrics.CallbackOptions) -> Iterator[metrics.Observation]:
        yield metrics.Observation(look().host_cache_bytes)

    meter.create_observable_gauge(
        "darkroom.model_runner.host_cache", [kept], unit="By", description="host memory of models off the accelerator"
    )
    meter.create_observable_counter(
        "darkroom.model_runner.busy", [busy], unit="us", description="time the engine has worked, by who bears it"
    )
    meter.create_observable_counter(
        "darkroom.model_runner.embeddings", [texts], description="texts looked up in the cache of prompt embeddings"
    )
