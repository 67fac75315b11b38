from pathlib import Path

from tests import platforms
from tests.cli.conftest import command


def test_it_tells_what_it_does_and_what_to_do_next(platform: platforms.Platform) -> None:
    lines = platform.log("up").splitlines()
    assert lines[:2] == [
        "starting PostgreSQL",
        "starting billing_meter, lora_store, media_store, scheduler, model_runner-0",
    ]
    assert lines[2].split()[:2] == ["endpoint", platform.connection.scheduler_address]
    assert lines[3].split()[:2] == ["keys", str(platform.folder / "connection.json")]
    assert lines[5].startswith("  darkroom generate pocket-image --prompt ")
    assert lines[6] == "Ctrl-C stops everything"


def test_no_secret_is_told(platform: platforms.Platform) -> None:
    told = "".join(path.read_text() for path in (platform.folder / "logs").iterdir())
    assert platform.connection.api_key.rpartition("_")[2] not in told
    assert platform.connection.operator_key.rpartition("_")[2] not in told


def test_how_many_runners_is_bounded(tmp_path: Path) -> None:
    for number in ("0", "17", "many"):
        assert command(tmp_path)("up", "--runners", number).code == 2
