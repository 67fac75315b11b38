"""How attempts go wrong, whose fault that is, and that adapters change the picture."""

import asyncio
import contextlib
import io
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tenacity
import torch

from darkroom import ids
from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.api.types.v1 import inputs_pb2
from darkroom.model_runner import peers
from darkroom.model_runner.loop import attempt
from tests.model_runner import world as worlds


def use(adapter_id: str, scale: float = 1.0) -> list[inputs_pb2.AdapterRef]:
    return [inputs_pb2.AdapterRef(adapter_id=adapter_id, scale=scale)]


async def finished(owner: worlds.Owner, assign: pb.Assign) -> pb.WorkResponse:
    await owner.send(assign=assign)
    await owner.until("completed", "failed", "cancelled")
    return owner.heard[-1]


async def test_an_adapter_changes_the_picture(world: worlds.World) -> None:
    adapter_id = await world.push(worlds.adapter())
    async with world.runner() as address, world.owner(address) as owner:
        plain = await finished(owner, world.assign())
        styled = await finished(owner, world.assign(adapters=use(adapter_id)))
        silent = await finished(owner, world.assign(adapters=use(adapter_id, 0.0)))
    digests = [message.completed.artifacts[0].sha256 for message in (plain, styled, silent)]
    assert digests[0] == digests[2] != digests[1]
    assert styled.completed.stages.adapters_us > 0


async def test_an_adapter_that_is_gone_or_does_not_fit_is_the_requests_fault(world: worlds.World) -> None:
    misfit = await world.push(worlds.adapter(inputs=8))
    async with world.runner() as address, world.owner(address) as owner:
        for adapter_id, reason in ((ids.new("lora"), "ADAPTER_NOT_FOUND"), (misfit, "ADAPTER_INVALID")):
            failed = (await finished(owner, world.assign(adapters=use(adapter_id)))).failed
            assert (failed.error.reason, failed.request_fault) == (reason, True)
            assert not failed.error.retryable


async def test_another_revision_is_the_runners_fault(world: worlds.World) -> None:
    assign = world.assign()
    assign.model_revision = "sha256:" + "0" * 64
    async with world.runner() as address, world.owner(address) as owner:
        failed = (await finished(owner, assign)).failed
        assert (failed.error.reason, failed.request_fault) == ("MODEL_REVISION_MISMATCH", False)


async def test_a_cancel_ends_the_fetching_too(world: worlds.World, free_port: int) -> None:
    assign = world.assign(adapters=use(ids.new("lora")))
    nobody = f"127.0.0.1:{free_port}"
    async with world.runner(lora_store_address=nobody) as address, world.owner(address) as owner:
        await owner.send(assign=assign)
        await owner.until("accepted")
        await owner.send(cancel=pb.Cancel(key=assign.key))
        cancelled = await owner.until("cancelled", "failed")
        assert isinstance(cancelled, pb.Cancelled)
        assert cancelled.usage.gpu_time_us == 0


async def test_stores_that_stay_away_are_the_platforms_fault(
    world: worlds.World, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for method in (peers.Media.put, peers.Adapters._describe):
        monkeypatch.setattr(method.retry, "stop", tenacity.stop_after_attempt(1))
    nobody = f"127.0.0.1:{free_port}"
    away = {"lora_store_address": nobody, "media_store_address": nobody}
    async with world.runner(**away) as address, world.owner(address) as owner:
        unfetched = (await finished(owner, world.assign(adapters=use(ids.new("lora"))))).failed
        unstored = (await finished(owner, world.assign())).failed
    assert (unfetched.error.reason, unfetched.request_fault) == ("ADAPTER_FETCH_FAILED", False)
    assert (unstored.error.reason, unstored.request_fault) == ("MEDIA_STORE_FAILED", False)
    assert unstored.usage.steps == 4


async def test_many_attempts_go_side_by_side(world: worlds.World) -> None:
    assigns = [world.assign(seed=seed, steps=seed + 1, solo=seed == 3) for seed in range(6)]
    async with world.runner() as address, world.owner(address) as owner:
        for assign in assigns:
            await owner.send(assign=assign)
        ended = [await owner.until("completed", "failed") for _ in assigns]
    seeds = {message.key.generation_id: message.artifacts[0].seed for message in ended}
    assert seeds == {assign.key.generation_id: assign.image.seed for assign in assigns}


async def test_a_cancel_as_soon_as_everything_is_fetched_is_heard(
    world: worlds.World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = attempt._Attempt._fetch

    async def fetched(self: attempt._Attempt, held: contextlib.AsyncExitStack) -> Any:
        fetched = await fetch(self, held)
        asyncio.get_running_loop().call_soon(self.cancel)  # before anybody goes on with what was fetched
        return fetched

    monkeypatch.setattr(attempt._Attempt, "_fetch", fetched)
    async with world.runner() as address, world.owner(address) as owner:
        await owner.send(assign=world.assign(steps=worlds.ENDLESS_STEPS))
        ended = await owner.until("cancelled", "progress")
    assert isinstance(ended, pb.Cancelled)
    assert ended.usage.steps == 0


async def test_progress_is_not_told_too_often(world: worlds.World) -> None:
    async with world.runner(progress_interval_s=3600.0) as address, world.owner(address) as owner:
        await finished(owner, world.assign(steps=20))
        assert [message.WhichOneof("message") for message in owner.heard].count("progress") == 1


async def levels(world: worlds.World, completed: pb.Completed) -> torch.Tensor:
    """The picture's levels, 0 to 255."""
    data = await world.read(completed.artifacts[0].media_id)
    return torch.tensor(np.array(PIL.Image.open(io.BytesIO(data))), dtype=torch.int16)


async def test_an_attempt_goes_on_elsewhere_from_a_checkpoint_and_counts_each_step_once(world: worlds.World) -> None:
    adapter_id = await world.push(worlds.adapter())
    picture: dict[str, Any] = {"steps": 100, "adapters": use(adapter_id)}
    async with world.runner(checkpoint_interval_s=0.001) as address, world.owner(address) as owner:
        whole = await finished(owner, world.assign(**picture))
        kept = [message.checkpoint for message in owner.heard if message.HasField("checkpoint")]
    assert [one.step for one in kept] == sorted({one.step for one in kept})
    assert whole.completed.resumed_step == 0
    following = world.assign(generation_id=kept[-1].key.generation_id, attempt=2, **picture)
    following.checkpoint.CopyFrom(kept[-1])
    async with world.runner() as address, world.owner(address) as owner:
        resumed = (await finished(owner, following)).completed
        told = [message.progress for message in owner.heard if message.HasField("progress")]
    assert resumed.resumed_step == kept[-1].step > 0
    assert {one.resumed_step for one in told} <= {kept[-1].step}
    assert resumed.usage.steps == whole.completed.usage.steps == 100
    assert resumed.usage.gpu_time_us > kept[-1].usage.gpu_time_us > 0
    assert (await levels(world, resumed) - await levels(world, whole.completed)).abs().max() <= 1


async def test_what_cannot_be_gone_on_with_starts_anew(world: worlds.World) -> None:
    async with world.runner(checkpoint_interval_s=0.001) as address, world.owner(address) as owner:
        await finished(owner, world.assign(steps=50))
        kept = next(message.checkpoint for message in owner.heard if message.HasField("checkpoint"))
        for media_id in (kept.media_id, ids.new("med")):  # another generation's, and none
            assign = world.assign(steps=4)
            assign.checkpoint.MergeFrom(pb.Checkpoint(media_id=media_id, step=3))
            completed = (await finished(owner, assign)).completed
            assert (completed.resumed_step, completed.usage.steps) == (0, 4)


async def test_nothing_is_left_running_when_the_runner_ends(world: worlds.World) -> None:
    async with world.runner() as address, world.owner(address) as owner:
        await owner.send(assign=world.assign(steps=worlds.ENDLESS_STEPS))
        await owner.until("progress")
    assert not [task for task in asyncio.all_tasks() if "_Attempt" in repr(task)]
