import json
from pathlib import Path

import PIL.Image

from tests.cli.conftest import command


def test_the_judge_counts_and_the_figures_are_written(tmp_path: Path) -> None:
    flags = ("--prompts", "1", "--steps", "1", "--json", "figures.json", "--sheet", "sheet.png")
    said = command(tmp_path)("bench", "judge", "pocket-image", *flags)
    assert said.code == 0, said.err
    written = json.loads(Path("figures.json").read_text())
    assert set(written) >= {"name", "date", "commit", "machine", "figures"}
    assert 0 <= written["figures"]["accuracy"] <= 1
    assert 0 <= written["figures"]["accuracy_held_out"] <= 1
    with PIL.Image.open("sheet.png") as sheet:
        assert sheet.format == "PNG"


def test_quick_makes_few_pictures_one_operation_at_a_time(tmp_path: Path) -> None:
    said = command(tmp_path)("bench", "judge", "pocket-image", "--quick", "--steps", "1", "--json", "figures.json")
    assert said.code == 0, said.err
    written = json.loads(Path("figures.json").read_text())
    assert written["figures"]["prompts"] == 4
    assert ", 1 threads, " in written["machine"]


def test_a_model_that_is_not_judged_is_misuse(tmp_path: Path) -> None:
    said = command(tmp_path)("bench", "judge", "gigantic")
    assert said.code == 2
    assert "'gigantic' is not 'pocket-image'" in said.err
