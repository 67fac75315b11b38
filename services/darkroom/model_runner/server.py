"""The model runner's composition root: which device, which models, which peers; the only place where concrete parts are chosen."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Mapping

import torch

from darkroom import catalog, errors, ids, rpc, settings, tokens
from darkroom.api.model_runner.v1 import runner_service_pb2_grpc
from darkroom.model_runner import messages, nvml, peers, servicer
from darkroom.model_runner.config import Config
from darkroom.model_runner.engine import engine as engine_thread
from darkroom.model_runner.engine import families
from darkroom.model_runner.engine import job as engine_job
from darkroom.model_runner.loop import announce, attempt

ROOM = "model_runner"
ACKNOWLEDGE_WAIT_S = 2.0  # after the last outcome is told: the owner commits within milliseconds
MEMORY_SHARE = 0.8  # of the device, for resident models; the rest is for activations


async def serve(config: Config, *, ready: Callable[[str], None] | None = None) -> None:
    """Run one runner until SIGTERM; unfinished attempts are handed back."""
    entries = _entries(config)
    sampler = nvml.open_sampler(_sampled(config.device))
    desk = attempt.Desk(ids.new("run"), progress_interval_s=config.progress_interval_s)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(sampler.close)
        engine = await stack.enter_async_context(_engine(config, entries, sampler.identity, desk))
        scheduler, adapters, media = [
            await stack.enter_async_context(_channel(config, address))
            for address in (config.scheduler_address, config.lora_store_address, config.media_store_address)
        ]
        store = peers.Adapters(adapters, config.cache_dir, bytes_max=config.cache_bytes_max)
        desk.connect(attempt.Ports(engine, store, peers.Media(media), entries))
        server = rpc.Server(config, room=ROOM, verify_key=_no_api_keys)
        server.add(runner_service_pb2_grpc.add_RunnerServiceServicer_to_server, servicer.RunnerServicer(desk.aboard))
        tasks = await stack.enter_async_context(rpc.background())

        def begin(address: str) -> None:
            identity = announce.Identity(
                runner_id=desk.aboard.runner_id,
                node=config.node_name or socket.gethostname(),
                address=config.advertise_address or address,
                models=tuple(entries),
            )
            interval_s = config.register_interval_s
            tasks.create_task(
                announce.register(peers.Scheduler(scheduler), identity, sampler, desk.aboard, interval_s=interval_s)
            )
            if ready is not None:
                ready(address)

        tasks.create_task(announce.beat(engine, sampler, desk.aboard, interval_s=config.heartbeat_interval_s))
        await server.run(begin, drain=lambda: _drain(desk, grace_s=config.shutdown_grace_s))


async def _drain(desk: attempt.Desk, *, grace_s: float) -> None:
    """Take no more; let what runs finish within the grace, then hand the rest back."""
    desk.aboard.draining = True
    for wait_s in (grace_s, ACKNOWLEDGE_WAIT_S):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(desk.aboard.settled(), wait_s)
            return
        desk.hand_back()


async def _no_api_keys(api_key: str) -> tokens.Principal:
    raise errors.Unauthenticated("a runner is reached by the platform's own services alone")


def _channel(config: Config, address: str) -> contextlib.AbstractAsyncContextManager[rpc.channel.__class__]:  # type: ignore[name-defined]
    return rpc.channel(
        address, tls=rpc.tls(config), credential=tokens.ServiceCredential(config.service_secret, ROOM)
    )


@contextlib.asynccontextmanager
async def _engine(
    config: Config,
    entries: Mapping[str, catalog.ModelEntry],
    identity: nvml.DeviceIdentity,
    desk: attempt.Desk,
) -> AsyncIterator[engine_thread.Engine]:
    """The engine on the configured device, with what is to be preloaded."""
    if config.threads:
        torch.set_num_threads(config.threads)
    device = _computing(config.device)
    engine_config = engine_job.EngineConfig(
        device=device,
        dtype=_dtype(config.dtype, device),
        batch_rows_max=config.batch_rows_max,
        rows_live_max=config.rows_live_max,
        memory_bytes_max=config.memory_bytes_max or int(MEMORY_SHARE * identity.memory_bytes),
        adapters_resident_max=config.adapters_resident_max,
    )
    engine = engine_thread.Engine(engine_config, [messages.spec(entry) for entry in entries.values()], desk.on_event)
    try:
        yield engine
    finally:
        await asyncio.to_thread(engine.close)


def _entries(config: Config) -> dict[str, catalog.ModelEntry]:
    """The models this runner may load; SettingsError if there is none, or one it was told is not here."""
    known = catalog.load(config.catalog_dir)
    here = {name: entry for name, entry in known.items() if entry.family in families.FAMILIES and entry.directory.is_dir()}
    missing = [name for name in (*config.models, *config.preload) if name not in here]
    if missing:
        raise settings.SettingsError(f"DARKROOM_MODELS names {', '.join(missing)}, which cannot be loaded here")
    chosen = {name: here[name] for name in config.models} if config.models else here
    if not chosen:
        raise settings.SettingsError(f"DARKROOM_CATALOG_DIR holds no model whose files are here: {config.catalog_dir}")
    return chosen


def _computing(device: str) -> str:
    """The torch device; a sampled NVML device computes on the CPU where torch has no CUDA, as in tests."""
    if device == "cpu" or not torch.cuda.is_available():
        return "cpu"
    return device.replace("nvml:", "cuda:") if device != "auto" else "cuda:0"


def _sampled(device: str) -> str:
    return device.replace("cuda:", "nvml:")


def _dtype(stated: str, device: str) -> engine_job.Dtype:
    known: dict[str, engine_job.Dtype] = {"float32": "float32", "float16": "float16", "bfloat16": "bfloat16"}
    if stated and stated not in known:
        raise settings.SettingsError("DARKROOM_DTYPE must be float32, float16 or bfloat16")
    return known[stated] if stated else "float32" if device == "cpu" else "bfloat16"
