"""The protos: every RPC says who may call it, and the committed code is what the protos say."""

import filecmp
import pathlib
import subprocess
import sys

import pytest

from darkroom.api.billing_meter.v1 import account_service_pb2, billing_service_pb2, metering_service_pb2
from darkroom.api.lora_store.v1 import lora_service_pb2
from darkroom.api.media_store.v1 import media_service_pb2
from darkroom.api.model_runner.v1 import runner_service_pb2
from darkroom.api.scheduler.v1 import fleet_service_pb2, generation_service_pb2, model_service_pb2
from darkroom.api.types.v1 import options_pb2

TOP = pathlib.Path(__file__).parents[2]
MODULES = (
    account_service_pb2,
    billing_service_pb2,
    metering_service_pb2,
    lora_service_pb2,
    media_service_pb2,
    runner_service_pb2,
    fleet_service_pb2,
    generation_service_pb2,
    model_service_pb2,
)
METHODS = [
    method
    for module in MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_every_method_requires_a_scope(method: object) -> None:
    assert method.GetOptions().Extensions[options_pb2.required_scope]  # type: ignore[attr-defined]


def test_every_service_of_the_protos_is_walked() -> None:
    declared = sum(path.read_text().count("\n  rpc ") for path in (TOP / "proto").rglob("*.proto"))
    assert declared == len(METHODS)


def generate(folder: pathlib.Path) -> None:
    make = ["make", "--no-print-directory", "-o", "setup", "-o", ".venv/.installed", "proto", f"GENERATED={folder}"]
    subprocess.run([*make, f"BIN={pathlib.Path(sys.executable).parent}"], cwd=TOP, check=True, timeout=120)


def test_what_runs_meanwhile_keeps_the_generated_code_that_stays_the_same(tmp_path: pathlib.Path) -> None:
    generate(tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    changed, missing, *_ = sorted(path for path in files if path.name.endswith("_pb2.py"))
    before = changed.read_bytes()
    changed.write_bytes(b"stale")
    missing.unlink()
    stray = changed.with_name("gone_pb2.py")
    stray.touch()
    generate(tmp_path)
    assert changed.read_bytes() == before
    assert not stray.exists()
    again = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert again.keys() == files.keys()
    assert {path for path in files if again[path] != files[path]} == {changed, missing}


def test_the_generated_code_is_fresh(tmp_path: pathlib.Path) -> None:
    generate(tmp_path)
    committed, fresh = TOP / "services" / "darkroom" / "api", tmp_path / "darkroom" / "api"
    names = sorted(str(path.relative_to(fresh)) for path in fresh.rglob("*.py*"))
    kept = sorted(str(p.relative_to(committed)) for p in committed.rglob("*.py*") if "__pycache__" not in p.parts)
    assert names == kept
    _, different, unreadable = filecmp.cmpfiles(committed, fresh, names, shallow=False)
    assert not different
    assert not unreadable
