"""Published architectures at their real sizes with random weights: our families beside diffusers, eager and compiled.

In: a device. Out: for each model the milliseconds of a step (and of everything around the steps), three times, and the seconds that it
takes to leave for host memory and to return. All three run the very same modules in memory. Regional compilation
(`compile_repeated_blocks`) is diffusers' own advice for these transformers; UNets are compiled whole. Next: `gpu_check` writes the table.
"""

import gc
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import _host_cache
import _random_models
import _report
import diffusers
import torch

from darkroom.model_runner.engine import embeddings
from darkroom.model_runner.engine import job as engine_job
from darkroom.model_runner.engine.families import Family, flux, sdxl, stable_diffusion, wan

PROMPT, SEED = "a quiet harbour at dawn", 0
BEGIN_WITHIN_S = 450.0  # of nine minutes: what begins later might not end in time


class Timing(NamedTuple):
    """One engine on one model: a step, and the whole of text, steps and decoding."""

    step_ms: float
    whole_s: float


class Measured(NamedTuple):
    """What was found out about all models."""

    figures: dict[str, float]
    """`<model>_step_vs_eager` and `<model>_step_vs_compiled` (below 1: we are faster), `<model>_return_s`."""
    rows: list[_report.Row]
    trips: list[_report.Row]
    failures: list[str]


def measure(device: torch.device, *, tiny: bool) -> Measured:
    """Time every model that there is time for; what is left out counts as a failure."""
    until_s = time.monotonic() + BEGIN_WITHIN_S
    found = Measured({}, [], [], [])
    for name, work in _random_models.WORKS.items():
        try:
            _measure_model(name, work, device, found, tiny=tiny, until_s=until_s)
        except Exception as error:  # the figures of the other models are worth having
            traceback.print_exc()
            found.failures.append(f"{name}: {type(error).__name__}: {error}")
        torch.compiler.reset()  # the next model's networks of the same class would be compiled for sizes that vary
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return found


def _measure_model(
    name: str, work: _random_models.Work, device: torch.device, found: Measured, *, tiny: bool, until_s: float
) -> None:
    """Add a model's figures to what was found, each as soon as it is known."""
    _check_time(until_s)
    print(f"{name}: making it", flush=True)
    with _random_models.made_on(device, torch.bfloat16):
        pipeline = work.make(tiny)
    pipeline.set_progress_bar_config(disable=True)
    job, family = _job(name, work, tiny=tiny), _family(name, work, pipeline)
    key = name.split()[0].lower().replace(".", "_").replace("-", "_")
    ours = _timed(lambda times: _ours(family, job, times), device)
    eager = _timed(lambda times: _theirs(pipeline, job, times), device)
    found.figures[f"{key}_step_vs_eager"] = ours.step_ms / eager.step_ms
    found.rows.extend(
        {"model": name, "made by": by, **each._asdict()} for by, each in (("ours", ours), ("diffusers", eager))
    )
    trip = _host_cache.measure(family, device)
    found.figures[f"{key}_return_s"] = trip.return_s
    found.trips.append({"model": name, **trip._asdict()})
    if not trip.is_same or trip.left_bytes > _host_cache.LEFT_SHARE_MAX * trip.size_bytes:
        found.failures.append(
            f"{name}: off the device it left {trip.left_bytes} bytes there; the same after: {trip.is_same}"
        )
    if device.type == "cuda":
        _check_time(until_s)
        print(f"{name}: compiling", flush=True)
        _compile(pipeline)
        compiled = _timed(lambda times: _theirs(pipeline, job, times), device)
        found.figures[f"{key}_step_vs_compiled"] = ours.step_ms / compiled.step_ms
        found.rows.append({"model": name, "made by": "diffusers compiled", **compiled._asdict()})


def _check_time(until_s: float) -> None:
    if time.monotonic() > until_s:
        raise TimeoutError("there was no time left for it")


def _timed(make: Callable[[list[float]], None], device: torch.device) -> Timing:
    """Make it once to warm up, then for the clock; `make` notes the time after each step."""
    for _ in range(2):
        times = list[float]()
        _wait(device)
        started_s = time.perf_counter()
        with torch.inference_mode():
            make(times)
        _wait(device)
        whole_s = time.perf_counter() - started_s
    step_s = (times[-1] - times[0]) / (len(times) - 1)  # between the first step's end and the last one's
    return Timing(step_s * 1e3, whole_s)


def _ours(family: Family, job: engine_job.Job, times: list[float]) -> None:
    [states] = family.prepare([job])
    for _ in range(job.steps):
        states = family.advance(states, family.denoise(states))
        times.append(_now_s(states[0].latents.device))
    family.decode(states)


def _theirs(pipeline: diffusers.DiffusionPipeline, job: engine_job.Job, times: list[float]) -> None:
    def note(_: Any, __: int, ___: Any, kept: dict[str, Any]) -> dict[str, Any]:
        times.append(_now_s(pipeline.device))
        return kept

    video = {"num_frames": job.frames} if job.frames > 1 else {}
    length = {} if isinstance(pipeline, _CLIP_ONLY) else {"max_sequence_length": job.max_sequence_length}
    pipeline(
        PROMPT,
        width=job.width,
        height=job.height,
        num_inference_steps=job.steps,
        guidance_scale=job.guidance_scale,
        generator=torch.Generator().manual_seed(SEED),
        callback_on_step_end=note,
        output_type="pt",
        **video,
        **length,
    )


_CLIP_ONLY = (diffusers.StableDiffusionPipeline, diffusers.StableDiffusionXLPipeline)


def _compile(pipeline: diffusers.DiffusionPipeline) -> None:
    if isinstance(pipeline, _CLIP_ONLY):
        pipeline.unet.compile(fullgraph=True)
    else:
        pipeline.transformer.compile_repeated_blocks(fullgraph=True)


def _family(name: str, work: _random_models.Work, pipeline: diffusers.DiffusionPipeline) -> Family:
    spec = engine_job.ModelSpec(
        name=name,
        family=work.family,
        path=_random_models.NOWHERE,
        revision="sha256:" + "0" * 64,
        guidance=work.guidance,
        memory_bytes=0,
    )
    nothing = embeddings.Cache(bytes_max=0)  # so that each run encodes its text, as diffusers does
    if work.family == "stable_diffusion":
        return stable_diffusion.StableDiffusion(spec, pipeline, adapters_resident_max=1, embeddings=nothing)
    if work.family == "sdxl":
        return sdxl.Sdxl(spec, pipeline, adapters_resident_max=1, embeddings=nothing)
    if work.family == "flux":
        return flux.Flux(spec, "text", pipeline, adapters_resident_max=1, embeddings=nothing)
    return wan.Wan(spec, pipeline, adapters_resident_max=1, embeddings=nothing)


def _job(name: str, work: _random_models.Work, *, tiny: bool) -> engine_job.Job:
    width, height, *frames = work.tiny_size if tiny else work.size
    return engine_job.Job(
        key="timed",
        tenant_id="",
        model=name,
        prompt=PROMPT,
        width=width,
        height=height,
        frames=frames[0] if frames else 1,
        steps=3 if tiny else work.steps,
        guidance_scale=work.guidance_scale,
        seeds=(SEED,),
        max_sequence_length=work.text_tokens,
    )


def _now_s(device: torch.device) -> float:
    _wait(device)
    return time.perf_counter()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
