"""A runner is killed, or told to go, in the middle of a generation: another goes on from the checkpoint, to the same picture and one bill."""

import asyncio
import io
import signal
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import numpy as np
import PIL.Image
import psutil
import pytest

from darkroom import client
from darkroom.api.scheduler.v1 import generation_pb2 as generation_pb
from darkroom.api.scheduler.v1 import generation_service_pb2 as service_pb
from darkroom.api.types.v1 import inputs_pb2
from tests import platforms
from tests.journeys import load

STEPS = 50
KEPT_STEP_MIN = 10
BEGUN_WITHIN_S = 120.0
QUICK = {
    "DARKROOM_CHECKPOINT_INTERVAL_S": "0.02",
    "DARKROOM_PROGRESS_INTERVAL_S": "0.05",
    "DARKROOM_SHUTDOWN_GRACE_S": "0.1",
    "DARKROOM_SWEEP_INTERVAL_S": "0.2",
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[platforms.Platform]:
    """A platform of two runners."""
    with platforms.running(tmp_path_factory.mktemp("pair"), environment=QUICK, runners=2) as platform:
        yield platform


@pytest.mark.timeout(900)  # processes that load torch, on a machine that may be busy
@pytest.mark.parametrize(
    ("how", "ended"), [(signal.SIGKILL, "RUNNER_LOST"), (signal.SIGTERM, "SUSPENDED")], ids=["killed", "drained"]
)
async def test_another_runner_goes_on_to_the_same_picture(
    pair: platforms.Platform, tmp_path: Path, how: signal.Signals, ended: str
) -> None:
    tenant = await load.new_tenant(pair, f"patient-{how.name}")
    async with pair.tenant(tenant.api_key) as darkroom:
        whole = await darkroom.generate(_request("whole"))
        begun = await darkroom.create(_request("interrupted"))
        kept_step = await _interrupt(pair, begun.generation_id, how)
        resumed = await load.follow(darkroom, begun.generation_id)
        assert (resumed.state, resumed.attempts) == (generation_pb.GENERATION_STATE_SUCCEEDED, 2)
        assert KEPT_STEP_MIN <= kept_step <= resumed.resumed_step < STEPS
        first, second = (await darkroom.explain(resumed.generation_id)).decisions
        assert (first.resumed_step, second.resumed_step) == (0, resumed.resumed_step)
        assert (first.runner_id != second.runner_id, second.previous_attempt_end) == (True, ended)
        for one, other in zip(whole.artifacts, resumed.artifacts, strict=True):
            levels = [await _levels(darkroom, artifact, tmp_path / artifact.sha256) for artifact in (one, other)]
            assert np.abs(levels[0] - levels[1]).max() <= 1
        assert whole.usage.steps == resumed.usage.steps == STEPS
    await load.audit(pair, tenant, [load.Shot(whole, 0.0), load.Shot(resumed, 0.0)])
    stages_us = {field.name: value for field, value in resumed.stages.ListFields()}
    whole_us = resumed.finished_at.ToMicroseconds() - resumed.created_at.ToMicroseconds()
    assert 0 < stages_us["lost_us"] < whole_us
    assert 0.9 * whole_us < sum(stages_us.values()) <= whole_us
    await _forgotten(pair, whole.generation_id, untold=0)
    await _forgotten(pair, resumed.generation_id, untold=2 if how is signal.SIGKILL else 0)


def _request(key: str) -> service_pb.CreateGenerationRequest:
    image = inputs_pb2.ImageInput(
        prompt="a red circle on a white background", steps=STEPS, seed=7, width=128, height=128
    )
    return service_pb.CreateGenerationRequest(model=load.MODEL, image=image, idempotency_key=key)


async def _interrupt(pair: platforms.Platform, generation_id: str, how: signal.Signals) -> int:
    """End the generation's runner once the scheduler has a checkpoint of it; the checkpoint's step."""
    connection = await asyncpg.connect(pair.postgres().url("darkroom"))
    try:
        async with asyncio.timeout(BEGUN_WITHIN_S):
            while (row := await connection.fetchrow(_KEPT, generation_id, KEPT_STEP_MIN)) is None:  # noqa: ASYNC110  # in a database
                await asyncio.sleep(0.01)
        port = int(row["address"].rpartition(":")[2])
        (victim,) = [process for process in pair.rooms("model_runner") if _listens(process, port)]
        victim.send_signal(how)
        return int(row["step"])
    finally:
        await connection.close()


_KEPT = (
    "SELECT (checkpoint ->> 'step')::int AS step, address FROM scheduler.generation"
    " JOIN scheduler.runner USING (runner_id) WHERE generation_id = $1 AND (checkpoint ->> 'step')::int >= $2"
)


def _listens(process: psutil.Process, port: int) -> bool:
    return any(
        connection.laddr.port == port and connection.status == psutil.CONN_LISTEN
        for connection in process.net_connections()
    )


async def _levels(darkroom: client.AsyncClient, artifact: object, path: Path) -> np.ndarray:
    """The picture's levels, 0 to 255, wide enough to subtract."""
    await darkroom.download(artifact, path)  # type: ignore[arg-type]
    return np.array(PIL.Image.open(io.BytesIO(path.read_bytes()))).astype(np.int16)


async def _forgotten(pair: platforms.Platform, generation_id: str, *, untold: int) -> None:
    """Every checkpoint is deleted, from the scheduler's tables and from media_store, but for those `untold` by who was killed."""
    connection = await asyncpg.connect(pair.postgres().url("darkroom"))
    discarded = "SELECT count(*) FROM scheduler.discarded_checkpoint"
    held = "SELECT count(*) FROM scheduler.generation WHERE checkpoint IS NOT NULL"
    files = "SELECT count(*) FROM media_store.media WHERE media_type LIKE '%safetensors' AND generation_id = $1"
    try:
        async with asyncio.timeout(BEGUN_WITHIN_S):
            while await connection.fetchval(f"SELECT ({discarded}) + ({held})"):  # noqa: ASYNC110  # in a database
                await asyncio.sleep(0.1)
            while await connection.fetchval(f"{files} AND deleted_at IS NULL", generation_id) > untold:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert await connection.fetchval(f"{files} AND deleted_at IS NOT NULL", generation_id) > 0
    finally:
        await connection.close()
