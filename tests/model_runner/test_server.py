"""A runner's beginning and end: ready, draining, its process on a simulated GPU, SIGTERM, and a lost device."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from darkroom import settings
from darkroom.model_runner import server
from darkroom.model_runner.engine import engine as engine_thread
from darkroom.model_runner.loop import announce
from tests import nvml_stub
from tests.model_runner import world as worlds


async def test_a_preloaded_model_is_resident_before_anybody_asks(world: worlds.World) -> None:
    async with world.runner(preload=(worlds.MODEL,)) as address, world.owner(address) as owner:
        heartbeat = await owner.until("heartbeat")
        assert list(heartbeat.resident_models) == [worlds.MODEL]
        assert heartbeat.busy_us > 0
        assert heartbeat.attributed_us == 0


async def test_settings_that_cannot_be_are_refused(world: worlds.World) -> None:
    with pytest.raises(settings.SettingsError, match="DARKROOM_MODELS"):
        await server.serve(world.config(models=("unheard-of",)))


async def test_a_draining_runner_puts_aside_what_it_cannot_finish(world: worlds.World) -> None:
    runner = world.runner(shutdown_grace_s=0.0)
    async with world.owner(await runner.__aenter__()) as owner:
        assign = world.assign(steps=worlds.ENDLESS_STEPS)
        await owner.send(assign=assign)
        await owner.until("progress")
        ending = asyncio.create_task(runner.__aexit__(None, None, None))
        suspended = await owner.until("suspended", "failed")
        assert suspended.checkpoint.key == assign.key
        assert suspended.checkpoint.step == suspended.checkpoint.usage.steps > 0
        assert await world.read(suspended.checkpoint.media_id)
        await owner.acknowledge(suspended)
        await ending


async def test_a_draining_runner_hands_back_what_cannot_be_put_aside(
    world: worlds.World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SUSPEND_WAIT_S", 0.0)
    runner = world.runner(shutdown_grace_s=0.0)
    async with world.owner(await runner.__aenter__()) as owner:
        await owner.send(assign=world.assign(steps=worlds.ENDLESS_STEPS))
        await owner.until("progress")
        ending = asyncio.create_task(runner.__aexit__(None, None, None))
        failed = await owner.until("failed")
        assert (failed.error.reason, failed.request_fault) == ("RUNNER_DRAINING", False)
        await owner.acknowledge(failed)
        await ending


async def test_a_draining_runner_finishes_what_it_can_and_takes_no_more(world: worlds.World) -> None:
    runner = world.runner(shutdown_grace_s=60.0)
    async with world.owner(await runner.__aenter__()) as owner:
        first = world.assign(steps=300)
        await owner.send(assign=first)
        await owner.until("progress")
        ending = asyncio.create_task(runner.__aexit__(None, None, None))
        while not (await owner.until("heartbeat")).draining:
            pass
        second = world.assign()
        await owner.send(assign=second)
        ended = [await owner.until("completed", "failed") for _ in range(2)]
        outcomes = {message.key.generation_id: message for message in ended}
        assert outcomes[first.key.generation_id].artifacts
        assert outcomes[second.key.generation_id].error.reason == "RUNNER_DRAINING"
        while not (await world.registrations.next()).draining:
            pass
        await owner.acknowledge(outcomes[first.key.generation_id])
        await ending


async def test_a_runner_whose_engine_dies_ends_with_an_error(
    world: worlds.World, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines: list[engine_thread.Engine] = []
    start = engine_thread.Engine.__init__

    def remember(self: engine_thread.Engine, *arguments: object, **named: object) -> None:
        engines.append(self)
        start(self, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(engine_thread.Engine, "__init__", remember)
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(server.serve(world.config(), ready=address.set_result))
    await address
    await asyncio.to_thread(engines[0].close)
    with pytest.raises(ExceptionGroup, match="TaskGroup") as died:
        await task
    assert died.group_contains(announce.EngineDied)


async def test_a_process_on_a_simulated_gpu_tells_its_samples_and_ends_on_sigterm(
    world: worlds.World, tmp_path: Path
) -> None:
    state = tmp_path / "nvml.state"
    nvml_stub.write_state(state, gpus=[nvml_stub.Gpu(), nvml_stub.Gpu(utilization=90, processes=((1, 2**30),))])
    library = await asyncio.to_thread(nvml_stub.build)
    environment = {
        **os.environ,
        **nvml_stub.environment(library=library, state_path=state),
        **{f"DARKROOM_{name.upper()}": value for name, value in world.addresses.items()},
        "DARKROOM_SERVICE_SECRET": world.service_secret,
        "DARKROOM_CATALOG_DIR": str(world.catalog_dir),
        "DARKROOM_DEVICE": "nvml:1",
        "DARKROOM_NODE_NAME": "node-b",
    }
    command = (sys.executable, "-m", "darkroom", "serve", "model_runner")
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
    try:
        registered = await world.registrations.next()
        assert (registered.node, registered.device.product) == ("node-b", "NVIDIA H200")
        async with world.owner(registered.address) as owner:
            heartbeat = await owner.until("heartbeat")
            assert (heartbeat.sample.utilization_percent, heartbeat.sample.foreign_processes) == (90, 1)
            assert heartbeat.sample.healthy
            await owner.send(assign=world.assign())
            await owner.acknowledge(await owner.until("completed"))
            nvml_stub.write_state(state, gpus=[nvml_stub.Gpu(), nvml_stub.lost(nvml_stub.Gpu())])
            while (await owner.until("heartbeat")).sample.healthy:
                pass
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(worlds.PATIENCE_S):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
