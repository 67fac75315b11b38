import importlib
import json
import os
import pathlib
import subprocess
import sys

import pytest
import torch

from darkroom_kernels import dispatch

ROOT = pathlib.Path(__file__).parents[2]
ABSENT = (
    "grpc",
    "google",
    "asyncpg",
    "obstore",
    "jsonschema",
    "aiohttp",
    "opentelemetry",
    "tenacity",
    "av",
    "ftfy",
    "pynvml",
)
"""What a GPU machine need not have."""
START = f"""
import runpy, sys
sys.modules |= dict.fromkeys({ABSENT!r})  # so that importing them fails
sys.argv = sys.argv[1:]
sys.path.insert(0, "benchmarks")
runpy.run_path(sys.argv[0], run_name="__main__")
"""


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


def test_a_gpu_that_no_kernel_was_compiled_for_is_a_failure(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    gpu_check = importlib.import_module("gpu_check")
    fine, bad = (dispatch.Verdict(admitted=not reason, reason=reason) for reason in ("", "it wrote outside its output"))
    assert "no kernel was compiled" in gpu_check.refusals({})[0]
    assert gpu_check.refusals({("guidance_step", 1): fine}) == []
    assert gpu_check.refusals({("guidance_step", 1): fine, ("guidance_step", 2): bad}) == [
        "guidance_step was disabled: it wrote outside its output"
    ]


def test_a_model_that_fails_or_has_no_time_left_costs_no_other_its_figures(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    models = importlib.import_module("_gpu_models")
    works = models._random_models.WORKS
    broken = works["FLUX.1-dev 1024x1024"]._replace(make=lambda tiny: [][tiny])
    monkeypatch.setattr(models._random_models, "WORKS", {"Broken": broken, "SD1.5": works["SD1.5 512x512"]})
    found = models.measure(torch.device("cpu"), tiny=True)
    assert found.failures == ["Broken: IndexError: list index out of range"]
    assert found.figures.keys() == {"sd1_5_step_vs_eager", "sd1_5_return_s"}
    monkeypatch.setattr(models, "BEGIN_WITHIN_S", -1.0)
    late = models.measure(torch.device("cpu"), tiny=True)
    assert late.failures == [f"{name}: TimeoutError: there was no time left for it" for name in ("Broken", "SD1.5")]


def run(*arguments):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", START, "benchmarks/gpu_check.py", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
