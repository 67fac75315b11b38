import hashlib
import subprocess
from pathlib import Path

from darkroom.model_runner.engine import revision


def test_is_what_sha256sum_says(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "a.safetensors").write_bytes(b"more")
    (tmp_path / "config.json").write_text("{}")
    names = ["a.safetensors", "vae/model.safetensors"]
    listing = subprocess.run(["sha256sum", *names], cwd=tmp_path, capture_output=True, check=True).stdout
    assert revision.digest(tmp_path) == f"sha256:{hashlib.sha256(listing).hexdigest()}"


def test_changes_with_content_and_name(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"one")
    first = revision.digest(tmp_path)
    path.write_bytes(b"two")
    second = revision.digest(tmp_path)
    path.rename(tmp_path / "b.safetensors")
    assert len({first, second, revision.digest(tmp_path)}) == 3
