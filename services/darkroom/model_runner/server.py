"""The model runner's composition root: settings -> device, models -> engine, peers -> attempts -> gRPC server.

The only place where concrete parts are chosen. It takes work once it listens; at the end it drains: what runs may finish, the rest is
handed back.
"""

import asyncio
import contextlib
import functools
import os
import socket
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import grpc
import torch
from opentelemetry import metrics

from darkroom import catalog, errors, ids, rpc, tokens
from darkroom.api.model_runner.v1 import runner_service_pb2_grpc
from darkroom.model_runner import aboard, choose, messages, meters, nvml, peers, servicer
from darkroom.model_runner.config import Config
from darkroom.model_runner.domain import Identity
from darkroom.model_runner.engine import engine as engine_thread
from darkroom.model_runner.engine import families
from darkroom.model_runner.engine import job as engine_job
from darkroom.model_runner.loop import announce, attempt, bridge

ROOM = "model_runner"
SUSPEND_WAIT_S = 8.0  # for states to be stored; large ones take seconds
ACKNOWLEDGE_WAIT_S = 2.0  # after the last outcome is told: the owner commits within milliseconds


async def serve(config: Config, *, ready: Callable[[str], None] | None = None) -> None:
    """Run one runner until SIGTERM; EngineDied (in a group) when the engine has lost its device."""
    async with contextlib.AsyncExitStack() as stack:
        runner = await _open(config, stack)
        server = rpc.Server(config, room=ROOM, verify_key=_no_api_keys)
        server.add(runner_service_pb2_grpc.add_RunnerServiceServicer_to_server, servicer.RunnerServicer(runner.aboard))
        tasks = await stack.enter_async_context(rpc.background())
        interval_s = config.heartbeat_interval_s
        tasks.create_task(announce.beat(runner.bridge, runner.sampler, runner.aboard, interval_s=interval_s))

        def begin(address: str) -> None:
            tasks.create_task(_register(config, runner, address))
            if ready is not None:
                ready(address)

        await server.run(begin, drain=functools.partial(_drain, runner, grace_s=config.shutdown_grace_s))


class _Runner(NamedTuple):
    sampler: nvml.Sampler
    bridge: bridge.Bridge
    aboard: aboard.Aboard
    scheduler: peers.Scheduler
    models: tuple[str, ...]


async def _open(config: Config, stack: contextlib.AsyncExitStack) -> _Runner:
    """Open the device, the engine and the peers; `stack` closes them."""
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as NVML counts; CUDA's own order is fastest first
    entries = choose.models(config, families=families.FAMILIES)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    device = choose.device(config.device, cuda_devices=torch.cuda.device_count(), visible=visible)
    sampler = await asyncio.to_thread(nvml.open_sampler, device.sampled)
    stack.callback(sampler.close)
    engine = bridge.Bridge(_starter(config, device.computing, entries, sampler.identity))
    stack.push_async_callback(engine.close)
    meters.observe(metrics.get_meter("darkroom.model_runner"), engine.engine.snapshot)
    await engine.warm(entries[name] for name in config.preload)
    scheduler, loras, media = [
        await stack.enter_async_context(_channel(config, address))
        for address in (config.scheduler_address, config.lora_store_address, config.media_store_address)
    ]
    folder = config.cache_dir or stack.enter_context(tempfile.TemporaryDirectory(prefix="darkroom-adapters-"))
    adapters = peers.Adapters(loras, Path(folder), bytes_max=config.cache_bytes_max)
    ports = attempt.Ports(engine, adapters, peers.Media(media), entries)
    habits = attempt.Habits(config.progress_interval_s, config.checkpoint_retention_s)
    attempts = attempt.Attempts(ids.new("run"), ports, habits)
    stack.push_async_callback(attempts.close)
    return _Runner(sampler, engine, attempts.aboard, peers.Scheduler(scheduler), tuple(entries))


async def _register(config: Config, runner: _Runner, address: str) -> None:
    identity = Identity(
        runner_id=runner.aboard.runner_id,
        node=config.node_name or socket.gethostname(),
        address=config.advertise_address or address,
        models=runner.models,
    )
    device, interval_s = runner.sampler.identity, config.register_interval_s
    await announce.register(runner.scheduler, identity, device, runner.aboard, interval_s=interval_s)


async def _drain(runner: _Runner, *, grace_s: float) -> None:
    """Take no more; what runs may finish within the grace, the rest is put aside with checkpoints, or else handed back."""
    attempts = runner.aboard
    attempts.drain()
    for wait_s, then in ((grace_s, runner.bridge.engine.drain), (SUSPEND_WAIT_S, attempts.hand_back)):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await attempts.idle()
        then()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ACKNOWLEDGE_WAIT_S):
            await attempts.settled()


async def _no_api_keys(api_key: str) -> tokens.Principal:
    raise errors.Unauthenticated("a runner is reached by the platform's own services alone")


def _channel(config: Config, address: str) -> grpc.aio.Channel:
    return rpc.channel(address, tls=rpc.tls(config), credential=tokens.ServiceCredential(config.service_secret, ROOM))


def _starter(
    config: Config, computing: str, entries: Mapping[str, catalog.ModelEntry], identity: nvml.DeviceIdentity
) -> Callable[[Callable[[engine_job.Event], None]], engine_thread.Engine]:
    """What starts the engine on the chosen device, given who hears its events."""
    if config.threads:
        torch.set_num_threads(config.threads)
    engine_config = engine_job.EngineConfig(
        device=computing,
        dtype=choose.dtype(config.dtype, computing),
        batch_rows_max=config.batch_rows_max,
        rows_live_max=config.rows_live_max,
        slice_steps_max=config.slice_steps_max,
        slice_us_max=round(config.slice_s_max * 1e6),
        ageing_us=round(config.ageing_s * 1e6),
        urgent_slower_max=config.urgent_slower_max,
        step_costs_path=Path(config.step_costs_path) if config.step_costs_path else None,
        embeddings_bytes_max=config.embeddings_bytes_max,
        encode_threads=config.encode_threads,
        memory_bytes_max=choose.memory_bytes_max(config.memory_bytes_max, device_bytes=identity.memory_bytes),
        host_cache_bytes_max=choose.host_cache_bytes_max(config.host_cache_bytes_max, computing),
        adapters_resident_max=config.adapters_resident_max,
        checkpoint_interval_us=round(config.checkpoint_interval_s * 1e6),
    )
    specs = [messages.spec(entry) for entry in entries.values()]
    return lambda on_event: engine_thread.Engine(engine_config, specs, on_event)
