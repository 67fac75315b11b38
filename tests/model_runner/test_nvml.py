"""The samplers against a simulated machine, each in a process of its own so that nvidia-ml-py loads the stub as it would load NVIDIA's."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from darkroom.model_runner import nvml
from tests import nvml_stub
from tests.nvml_stub import Gpu

WATCHER = """
import dataclasses, json, sys
from darkroom.model_runner import nvml
sampler = nvml.open_sampler(sys.argv[1])
print(json.dumps({"count": nvml.device_count(), **dataclasses.asdict(sampler.identity)}), flush=True)
for line in sys.stdin:
    sample = sampler.sample()
    derived = {"healthy": sample.healthy, "foreign_processes": sample.foreign_processes}
    print(json.dumps({**dataclasses.asdict(sample), **derived}, default=str), flush=True)
sampler.close()
"""


@dataclasses.dataclass(frozen=True)
class Watcher:
    """A process that watches one simulated device."""

    process: subprocess.Popen[str]
    identity: dict[str, Any]

    def sample(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


def environment(state_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        **nvml_stub.environment(library=nvml_stub.build(), state_path=state_path),
        "PYTHONPATH": str(Path(nvml.__file__).parents[2]),
    }


@contextlib.contextmanager
def watching(state_path: Path, spec: str = "nvml:0") -> Iterator[Watcher]:
    with subprocess.Popen(
        [sys.executable, "-c", WATCHER, spec],
        env=environment(state_path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield Watcher(process, json.loads(process.stdout.readline()))
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait() == 0


def test_identity_and_a_whole_sample(tmp_path: Path) -> None:
    state = tmp_path / "state"
    gpu = Gpu(utilization=37, memory_utilization=12, power=311_500, temperature=61, throttle_reasons=4, ecc_aggregate=2)
    nvml_stub.write_state(state, gpus=[Gpu(name="NVIDIA L4"), gpu])
    with watching(state, "nvml:1") as watcher:
        sample = watcher.sample()
    assert watcher.identity == {
        "count": 2,
        "product": "NVIDIA H200",
        "uuid": "GPU-00000000-0000-0000-0000-000000000001",
        "memory_bytes": 141 * 2**30,
        "driver_version": "550.54.15",
    }
    assert sample.pop("sampled_at").endswith("+00:00")
    assert sample == {
        "utilization_percent": 37,
        "memory_used_bytes": 2**30,
        "memory_total_bytes": 141 * 2**30,
        "power_mw": 311_500,
        "temperature_c": 61,
        "throttle_reasons": 4,
        "ecc_uncorrectable": 0,
        "last_xid": None,
        "processes": [],
        "unhealthy_reason": "",
        "healthy": True,
        "foreign_processes": 0,
    }


def test_each_sample_is_fresh(tmp_path: Path) -> None:
    state = tmp_path / "state"
    nvml_stub.write_state(state, gpus=[Gpu(utilization=1)])
    with watching(state) as watcher:
        assert watcher.sample()["utilization_percent"] == 1
        nvml_stub.write_state(state, gpus=[Gpu(utilization=99)])
        assert watcher.sample()["utilization_percent"] == 99


def test_eight_gpus_and_no_ninth(tmp_path: Path) -> None:
    state = tmp_path / "state"
    nvml_stub.write_state(state, gpus=[Gpu(name=f"GPU {index}") for index in range(8)])
    with watching(state, "nvml:7") as watcher:
        assert watcher.identity["product"] == "GPU 7"
        assert watcher.identity["count"] == 8
    ninth = subprocess.run(
        [sys.executable, "-c", WATCHER, "nvml:8"], env=environment(state), capture_output=True, text=True
    )
    assert ninth.returncode == 1
    assert "Invalid Argument" in ninth.stderr


def test_own_processes_are_told_from_foreign_ones(tmp_path: Path) -> None:
    state = tmp_path / "state"
    nvml_stub.write_state(state, gpus=[Gpu()])
    with watching(state) as watcher:
        foreign, gone = os.getpid(), 2**22 + 1
        processes = ((watcher.process.pid, 100), (foreign, 200), (gone, 300))
        nvml_stub.write_state(state, gpus=[Gpu(utilization=90, processes=processes)])
        sample = watcher.sample()
    assert sample["processes"] == [
        {"pid": watcher.process.pid, "memory_used_bytes": 100, "own": True},
        {"pid": foreign, "memory_used_bytes": 200, "own": False},
        {"pid": gone, "memory_used_bytes": 300, "own": False},
    ]
    assert sample["foreign_processes"] == 2


@pytest.mark.parametrize(
    ("unsupported", "fields"),
    [
        ("utilization", ["utilization_percent"]),
        ("memory_total", ["memory_used_bytes", "memory_total_bytes"]),
        ("power", ["power_mw"]),
        ("temperature", ["temperature_c"]),
        ("throttle_reasons", ["throttle_reasons"]),
        ("ecc_volatile", ["ecc_uncorrectable"]),
        ("processes", []),
        ("xids", []),
    ],
)
def test_unsupported_question_is_none_and_no_more(tmp_path: Path, unsupported: str, fields: list[str]) -> None:
    state = tmp_path / "state"
    nvml_stub.write_state(state, gpus=[Gpu(unsupported=frozenset({unsupported}))])
    with watching(state) as watcher:
        sample = watcher.sample()
    assert sample["healthy"]
    assert {field for field, value in sample.items() if value is None} == {"last_xid", *fields}


def test_fatal_xid_lasts_and_an_applications_does_not_count(tmp_path: Path) -> None:
    state = tmp_path / "state"
    nvml_stub.write_state(state, gpus=[Gpu(xids=(79,))])  # before the runner started: not its affair
    with watching(state) as watcher:
        assert watcher.sample()["last_xid"] is None
        nvml_stub.write_state(state, gpus=[Gpu(xids=(79, 31))])
        sample = watcher.sample()
        assert (sample["last_xid"], sample["healthy"]) == (31, True)
        nvml_stub.write_state(state, gpus=[Gpu(xids=(79, 31, 48, 13))])
        for _ in range(2):
            sample = watcher.sample()
            assert sample["last_xid"] == 13
            assert sample["unhealthy_reason"] == "the GPU reported the fatal Xid 48"


def test_uncorrectable_ecc_is_unhealthy(tmp_path: Path) -> None:
    state = tmp_path / "state"
    nvml_stub.write_state(state, gpus=[Gpu(ecc_volatile=3)])
    with watching(state) as watcher:
        sample = watcher.sample()
    assert sample["ecc_uncorrectable"] == 3
    assert sample["unhealthy_reason"] == "the GPU counts 3 uncorrectable ECC errors since its driver was loaded"


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (nvml_stub.lost(Gpu()), "the GPU is lost from the bus"),
        (Gpu(status=16), "the GPU needs a reset"),
        (Gpu(status=999), "the GPU does not answer: Unknown Error"),
    ],
)
def test_failing_gpu_is_unhealthy_and_may_come_back(tmp_path: Path, broken: Gpu, reason: str) -> None:
    state = tmp_path / "state"
    nvml_stub.write_state(state, gpus=[Gpu()])
    with watching(state) as watcher:
        nvml_stub.write_state(state, gpus=[broken])
        sample = watcher.sample()
        assert (sample["healthy"], sample["unhealthy_reason"], sample["memory_used_bytes"]) == (False, reason, None)
        nvml_stub.write_state(state, gpus=[Gpu()])
        assert watcher.sample()["healthy"]


def test_auto_takes_the_first_gpu_or_the_cpu(tmp_path: Path) -> None:
    state = tmp_path / "state"
    nvml_stub.write_state(state, gpus=[Gpu(name="the first"), Gpu()])
    with watching(state, "auto") as watcher:
        assert watcher.identity["product"] == "the first"
    nvml_stub.write_state(state, gpus=[])
    with watching(state, "auto") as watcher:
        assert watcher.identity["product"] == "cpu"
    state.unlink()  # the stub then says that no driver is loaded
    with watching(state, "auto") as watcher:
        assert (watcher.identity["product"], watcher.identity["count"]) == ("cpu", 0)


@pytest.mark.parametrize("spec", ["", "gpu", "nvml:", "nvml:-1", "nvml:1 ", "cuda:0"])
def test_other_names_are_refused(spec: str) -> None:
    with pytest.raises(ValueError, match='must be "auto", "cpu" or "nvml:<index>"'):
        nvml.open_sampler(spec)


def test_cpu_is_a_device() -> None:
    sampler = nvml.open_sampler("cpu")
    sample = sampler.sample()
    sampler.close()
    assert sampler.identity.product == "cpu"
    assert sampler.identity.memory_bytes == sample.memory_total_bytes == psutil.virtual_memory().total
    assert sample.memory_used_bytes is not None
    assert 0 < sample.memory_used_bytes < sampler.identity.memory_bytes
    assert sample.utilization_percent in range(101)
    assert (sample.healthy, sample.power_mw, sample.processes) == (True, None, ())


@pytest.mark.parametrize(
    ("host", "own", "cores", "percent"),
    [(80.0, 0.0, 2, 80), (80.0, 100.0, 2, 30), (50.0, 120.0, 2, 0), (100.0, 0.0, 4, 100), (0.0, 0.0, 1, 0)],
)
def test_foreign_share_leaves_the_runner_out(host: float, own: float, cores: int, percent: int) -> None:
    assert nvml.foreign_percent(host_percent=host, own_percent=own, cores=cores) == percent
