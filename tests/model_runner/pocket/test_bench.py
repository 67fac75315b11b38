"""The measure makes, judges, counts and shows; the shipped weights obey their prompts."""

import json
from pathlib import Path

import diffusers
import numpy as np
import pytest

from darkroom.model_runner.pocket import bench, judge, scenes


def truth(prompt: str, seed: int) -> bench.Judged:
    pixels = scenes.draw(scenes.parse(prompt), seed=seed).pixels
    return bench.Judged(prompt, pixels, judge.judge(prompt, pixels))


def test_accuracy_is_the_share_of_right_pictures() -> None:
    right = truth("a red circle on a white background", 1)
    wrong = right._replace(verdict=judge.judge("a blue circle on a white background", right.pixels))
    assert bench.accuracy([right, right, right, wrong]) == 0.75


def test_the_contact_sheet_shows_wrong_pictures_first_in_magenta() -> None:
    right = truth("a red circle on a white background", 1)
    wrong = right._replace(verdict=judge.Verdict(ok=False, reasons=("it is wrong",)))
    sheet = np.asarray(bench.contact_sheet([right] * 13 + [wrong], columns=12, zoom=2))
    side = scenes.SIZE_PX * 2 + 8
    assert sheet.shape == (2 * side, 12 * side, 3)
    assert tuple(sheet[0, 0]) == (255, 0, 255)
    assert tuple(sheet[0, side]) == (128, 128, 128)


def test_the_shipped_weights_obey_their_prompts(shipped: Path) -> None:
    pipeline = diffusers.FluxPipeline.from_pretrained(shipped)
    pipeline.set_progress_bar_config(disable=True)
    asked = [scenes.prompt(scene) for scene in scenes.evaluation_scenes(32, combinations_held_out=False, seed=3)]
    judged = bench.judge_model(pipeline, asked, steps=20, label="shipped")
    assert [each.prompt for each in judged] == asked
    assert bench.accuracy(judged) >= 31 / 32, [each for each in judged if not each.verdict.ok]


def test_main_writes_figures_and_a_sheet(shipped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    json_path, sheet_path = tmp_path / "figures.json", tmp_path / "sheet.png"
    figures = bench.main(shipped, prompts=2, steps=2, json_path=json_path, sheet_path=sheet_path)
    written = json.loads(json_path.read_text())
    assert written["figures"] == figures
    assert {"name", "date", "commit", "machine", "figures", "tables"} == set(written)
    assert 0 <= figures["accuracy_held_out"] <= 1
    assert sheet_path.stat().st_size > 1000
    assert "accuracy_held_out" in capsys.readouterr().out
