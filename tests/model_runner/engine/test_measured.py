import logging
from pathlib import Path

import pytest

from darkroom.model_runner import step_cost
from darkroom.model_runner.engine import measured
from darkroom.model_runner.engine.job import EngineConfig
from tests.model_runner.engine import counting


def file(path: Path | None, folder: Path, **config: object) -> measured.File:
    return measured.File(EngineConfig(step_costs_path=path, **config), [counting.spec(folder)])  # type: ignore[arg-type]


def test_costs_of_models_that_are_served_are_there_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "costs.json"
    assert file(path, tmp_path).read() == []
    file(path, tmp_path).write(counting.costs())
    read = file(path, tmp_path).read()
    assert read == [cost for cost in counting.costs() if cost.shape.model == "counting"]
    assert file(path, tmp_path, dtype="bfloat16").read() == []
    assert [entry.name for entry in path.parent.iterdir()] == ["costs.json"]


def test_without_a_path_nothing_is_kept(tmp_path: Path) -> None:
    file(None, tmp_path).write(counting.costs())
    assert file(None, tmp_path).read() == []


def test_a_broken_file_or_disk_is_said_and_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "costs.json"
    path.write_text("{")
    with caplog.at_level(logging.WARNING):
        assert file(path, tmp_path).read() == []
        file(path / "below", tmp_path).write([step_cost.StepCost(step_cost.Shape("m", "1x1", False, 1), 1, 1)])
    assert len(caplog.records) == 2
