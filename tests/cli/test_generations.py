import hashlib
from pathlib import Path

import pytest

from darkroom.api.scheduler.v1 import generation_pb2
from darkroom.cli import app, ask
from tests.cli.conftest import Darkroom

NOBODYS = "gen_" + "0" * 32


def test_get_shows_what_was_asked_and_made(darkroom: Darkroom, made: generation_pb2.Generation) -> None:
    said = darkroom("get", made.generation_id)
    assert said.code == 0
    assert said.out.startswith(f"{made.generation_id}  SUCCEEDED\n")
    assert "prompt   a red circle on a white background" in said.out
    assert "2 of 2 steps" in said.out
    assert f"ran      on {made.runner_id}, attempt 1\n" in said.out
    assert f"made     {made.artifacts[0].media_id}  image/png  64x64, seed 7, lossless\n" in said.out
    assert "denoise" in said.out


@pytest.mark.parametrize("word", ["get", "watch"])
def test_its_files_can_be_fetched_again(
    darkroom: Darkroom, made: generation_pb2.Generation, tmp_path: Path, word: str
) -> None:
    said = darkroom(word, made.generation_id, "--out", str(tmp_path / "new"), "--json")
    path = tmp_path / "new" / f"{made.generation_id}-0.png"
    assert said.json["generation_id"] == made.generation_id
    assert str(path) in said.err.splitlines()[-1]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == made.artifacts[0].sha256


def test_what_went_on_from_a_checkpoint_says_so_and_what_runs_has_no_times_yet(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = generation_pb2.Generation(generation_id=NOBODYS, runner_id="run_2", attempts=2, resumed_step=12)
    monkeypatch.setattr(ask, "tenant", lambda work: running)
    assert app.run(["get", NOBODYS]) == 0
    told = capsys.readouterr().out
    assert "ran      on run_2, attempt 2, which went on from step 12\n" in told
    assert "time" not in told


def test_what_has_ended_says_when(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ended = generation_pb2.Generation(generation_id=NOBODYS, state=generation_pb2.GENERATION_STATE_CANCELLED)
    ended.created_at.FromJsonString("2026-11-20T16:16:47.500Z")
    ended.finished_at.FromJsonString("2026-11-20T16:17:02.750Z")
    monkeypatch.setattr(ask, "tenant", lambda work: ended)
    assert app.run(["get", NOBODYS]) == 0
    assert "ended    2026-11-20 16:17:02 UTC, 15.25 s after it was asked for\n" in capsys.readouterr().out


def test_get_as_json(darkroom: Darkroom, made: generation_pb2.Generation) -> None:
    told = darkroom("get", made.generation_id, "--json").json
    assert told["generation_id"] == made.generation_id
    assert told["state"] == "GENERATION_STATE_SUCCEEDED"


@pytest.mark.parametrize("word", ["get", "watch", "cancel", "explain"])
def test_an_id_that_is_nobodys(darkroom: Darkroom, word: str) -> None:
    said = darkroom(word, NOBODYS)
    assert (said.code, said.out) == (1, "")
    assert said.err == f"darkroom: generation '{NOBODYS}' was not found (`darkroom list` names them)\n"


def test_watch_goes_to_the_end(darkroom: Darkroom, made: generation_pb2.Generation) -> None:
    said = darkroom("watch", made.generation_id)
    assert said.code == 0
    assert "succeeded" in said.err
    assert "SUCCEEDED" in said.out


def test_cancel_ends_it_for_whoever_watches(darkroom: Darkroom, long: generation_pb2.Generation) -> None:
    assert darkroom("cancel", long.generation_id, "--json").json["generation_id"] == long.generation_id
    said = darkroom("watch", long.generation_id, "--json")
    assert said.json["state"] == "GENERATION_STATE_CANCELLED"
    assert "cancelled" in said.err
    assert "CANCELLED" in darkroom("get", long.generation_id).out


def test_list_is_newest_first(
    darkroom: Darkroom, made: generation_pb2.Generation, long: generation_pb2.Generation
) -> None:
    told = darkroom("list", "--json").json["generations"]
    ids = [generation["generation_id"] for generation in told]
    assert ids == sorted(ids, reverse=True)
    assert ids[0] == long.generation_id
    assert made.generation_id in ids


def test_list_takes_what_is_asked_for(
    darkroom: Darkroom, made: generation_pb2.Generation, long: generation_pb2.Generation
) -> None:
    said = darkroom("list", "--state", "succeeded", "--model", "pocket-image", "--limit", "1000")
    assert made.generation_id in said.out
    assert long.generation_id not in said.out
    assert len(darkroom("list", "--limit", "1", "--json").json["generations"]) == 1
    assert darkroom("list", "--state", "failed", "--model", "other").out.startswith("there are none: ")
    assert darkroom("list", "--state", "asleep").code == 2
