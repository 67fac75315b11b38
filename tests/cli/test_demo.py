import json
import os
import subprocess
import sys
from pathlib import Path

import psutil


def test_one_word_makes_a_picture_and_its_bill_and_leaves_nothing_running(tmp_path: Path) -> None:
    variables = {**os.environ, "DARKROOM_HOME": str(tmp_path / "home"), "DARKROOM_THREADS": "1"}
    command = [sys.executable, "-m", "darkroom", "demo", "--prompt", "a red circle on a white background", "--json"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["generation"]["state"] == "GENERATION_STATE_SUCCEEDED"
    assert told["generation"]["image"]["prompt"] == "a red circle on a white background"
    assert told["charge"]["state"] == "CHARGE_STATE_POSTED"
    (picture,) = map(Path, told["paths"])
    assert picture.parent == tmp_path / "home" / "pictures"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "28/28 steps" in done.stderr
    assert done.stderr.splitlines()[-1] == "stopping"
    assert not (tmp_path / "home" / "connection.json").exists()
    assert not [process for process in psutil.process_iter() if _belongs(process, tmp_path)]


def _belongs(process: psutil.Process, folder: Path) -> bool:
    try:
        told = [*process.environ().values(), process.cwd()]
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return False
    return process.pid != os.getpid() and any(value.startswith(str(folder)) for value in told)
