"""Two GPUs as NVML describes them, one busy with somebody else's work: new work goes to the other, and `explain` says why."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import tenacity

from darkroom import client
from darkroom.api.scheduler.v1 import fleet_service_pb2 as fleet_pb
from darkroom.api.scheduler.v1 import generation_pb2 as generation_pb
from darkroom.cli import app
from tests import nvml_stub, platforms
from tests.journeys import load

GIB = 2**30
SHOTS = 3
SOON_S = 60.0
PATIENT = {"DARKROOM_HEARTBEAT_STALE_S": "60", "DARKROOM_SILENCE_S_MAX": "120"}
"""A machine with more to do than cores delays heartbeats for seconds; by default such a runner gets no work, whoever uses its GPU."""


@pytest.fixture
def state_path(tmp_path: Path) -> Iterator[Path]:
    """The machine: a process of somebody else's keeps its first GPU 90 % busy."""
    path = tmp_path / "nvml"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as foreigner:
        busy = nvml_stub.Gpu(utilization=90, processes=((foreigner.pid, 8 * GIB),), memory_used=9 * GIB)
        nvml_stub.write_state(path, gpus=[busy, nvml_stub.Gpu()])
        yield path
        foreigner.kill()


@pytest.fixture
def gpus(state_path: Path, tmp_path: Path) -> Iterator[platforms.Platform]:
    variables = nvml_stub.environment(library=nvml_stub.build(), state_path=state_path)
    with platforms.running(tmp_path / "home", environment={**variables, **PATIENT}) as platform:
        yield platform


async def test_work_avoids_the_gpu_that_others_use(
    gpus: platforms.Platform, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(gpus.rooms("model_runner")) == 2
    tenant = await load.new_tenant(gpus, "avoider")
    async with gpus.tenant(tenant.api_key) as darkroom, gpus.operator() as operator:
        shots: list[generation_pb.Generation] = []
        for number in range(SHOTS):
            taken, free = await _told(operator, after=shots)
            created = await darkroom.create(load.request(number, steps=1))
            shots.append(await load.follow(darkroom, created.generation_id))
            assert shots[-1].state == generation_pb.GENERATION_STATE_SUCCEEDED
            assert shots[-1].runner_id == free.runner_id
            [decision] = (await darkroom.explain(created.generation_id)).decisions
            assert [one.runner_id for one in decision.candidates] == [free.runner_id, taken.runner_id]
            assert decision.candidates[1].foreign_utilization == pytest.approx(0.9, abs=0.05)
            assert f"{taken.runner_id} on {taken.node} was slower" in decision.summary
            assert "90 % of its device is used by others" in decision.summary
    monkeypatch.setenv("DARKROOM_HOME", str(gpus.folder))
    monkeypatch.setenv("DARKROOM_API_KEY", tenant.api_key)
    assert await asyncio.to_thread(app.run, ["explain", shots[0].generation_id]) == 0
    assert "90 % of its device is used by others" in " ".join(capsys.readouterr().out.split())


async def _told(
    operator: client.AsyncClient, *, after: Sequence[generation_pb.Generation]
) -> tuple[fleet_pb.Runner, fleet_pb.Runner]:
    """The runner of the busy GPU and that of the free one, once the fleet knows both from NVML alone.

    While a runner works its own steps' slowdown tells, and that is the tests beside this one: so it must have been idle since its work.
    """
    async for attempt in tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(AssertionError),
        wait=tenacity.wait_fixed(0.2),
        stop=tenacity.stop_after_delay(SOON_S),
        reraise=True,
    ):
        with attempt:
            runners = {runner.device.uuid[-1]: runner for runner in await operator.runners()}
            assert sorted(runners) == ["0", "1"]
            assert runners["0"].foreign_utilization == pytest.approx(0.9, abs=0.05)
            assert runners["1"].foreign_utilization == pytest.approx(0.0, abs=0.05)
            assert runners["0"].sample.foreign_processes == 1
            for done in after:
                assert runners["1"].sample.sampled_at.ToDatetime() > done.finished_at.ToDatetime()
    return runners["0"], runners["1"]
