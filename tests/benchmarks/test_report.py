import importlib
import json
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def test_a_machine_without_git_still_gets_its_result(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    report = importlib.import_module("_report")
    monkeypatch.setenv("PATH", str(tmp_path))
    report.finish(
        tmp_path / "new" / "result.json", name="x", figures={"seconds": 1.5}, tables={"t": [{"row": 1}], "none": []}
    )
    written = json.loads((tmp_path / "new" / "result.json").read_text())
    assert (written["commit"], written["figures"]) == ("", {"seconds": 1.5})


def test_gpu_check_keeps_the_packages_that_were_carried_to_the_machine(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$PYTHONPATH $@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", "/carried")
    monkeypatch.delenv("MAKELEVEL", raising=False)  # a make inside `make test` would say where it is
    made = subprocess.run(
        ["make", "gpu-check", "SUITE=kernels", f"PYTHON={python}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    path, *arguments = made.stdout.split()
    assert path == "services:kernels:/carried"
    assert arguments[:5] == ["benchmarks/gpu_check.py", "--suite", "kernels", "--device", "cuda"]
