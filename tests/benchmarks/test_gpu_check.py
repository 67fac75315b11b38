import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
BARE = {"grpc", "google.protobuf", "asyncpg", "obstore", "jsonschema"}  # what a GPU machine need not have


@pytest.mark.parametrize(
    ("suite", "figures"),
    [
        ("kernels", {"kernel_signatures_checked"}),
        (
            "models",
            {
                "sd1_5_step_vs_eager",
                "sdxl_step_vs_eager",
                "flux_1_dev_step_vs_eager",
                "wan_step_vs_eager",
                "wan_return_s",
            },
        ),
        (
            "engine",
            {
                "parity_bfloat16_levels_max",
                "resumed_float32_levels_max",
                "bytes_held_after_aborts",
                "throughput_vs_sequential",
            },
        ),
    ],
)
def test_a_suite_runs_without_a_gpu_and_writes_its_figures(suite, figures, tmp_path):
    result = tmp_path / "result.json"
    ended = run("--suite", suite, "--device", "cpu", "--quick", "--json", str(result))
    assert ended.returncode == 0, ended.stderr
    written = json.loads(result.read_text())
    assert written["name"] == f"gpu_check_{suite}"
    assert figures <= written["figures"].keys()
    assert "nothing here is about GPU speed" in written["notes"]


def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path):
    ended = run("--suite", "kernels", "--device", "cuda", "--json", str(tmp_path / "result.json"))
    assert ended.returncode == 1
    assert "no CUDA device" in ended.stderr
    assert not list(tmp_path.iterdir())


def test_it_needs_nothing_that_a_bare_gpu_machine_lacks():
    program = f"import sys; sys.path.insert(0, 'benchmarks'); import gpu_check; print({BARE!r} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "set()"


def run(*arguments):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "benchmarks/gpu_check.py", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
