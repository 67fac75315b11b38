import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from darkroom.model_runner import fixed_cost, step_cost
from darkroom.model_runner.engine import measured
from darkroom.model_runner.engine.job import EngineConfig
from tests.model_runner.engine import counting

STEPS = [cost for cost in counting.costs() if cost.shape.model == "counting"]
STEPS[1] = STEPS[1]._replace(share=0.5)
FIXED = [fixed_cost.FixedCost("counting", "32x32", 1, 2, 3), fixed_cost.FixedCost("counting", "window", 4, 5, 6)]


def file(path: Path | None, folder: Path, *, revision: str = "sha256:0", **config: Any) -> measured.File:
    return measured.File(EngineConfig(step_costs_path=path, **config), [counting.spec(folder, revision=revision)])


def test_costs_survive_for_the_same_device_and_weights(tmp_path: Path) -> None:
    path = tmp_path / "new" / "costs.json"
    assert file(path, tmp_path).read() == ((), ())
    others = [cost for cost in counting.costs() if cost.shape.model == "other"]
    other = fixed_cost.FixedCost("other", "32x32", 7, 8, 9)
    file(path, tmp_path).write(measured.Costs([*STEPS, *others], [*FIXED, other]))
    assert file(path, tmp_path).read() == (STEPS, FIXED)
    assert file(path, tmp_path, revision="sha256:1").read() == ([], [])
    assert file(path, tmp_path, dtype="bfloat16").read() == ((), ())
    assert [entry.name for entry in path.parent.iterdir()] == ["costs.json"]


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    saved = json.loads(path.read_text())
    change(saved)
    path.write_text(json.dumps(saved))


def test_a_file_of_an_earlier_release_holds_and_one_of_a_later_does_not(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    file(path, tmp_path).write(measured.Costs(STEPS, FIXED))
    rewritten(path, lambda saved: saved.pop("fixed"))
    assert file(path, tmp_path).read() == (STEPS, [])
    rewritten(path, lambda saved: saved.update(costs=[line[:-1] for line in saved["costs"]]) or saved.pop("version"))
    assert file(path, tmp_path).read() == ([cost._replace(share=1.0) for cost in STEPS], [])
    rewritten(path, lambda saved: saved.update(version=measured.VERSION + 1))
    assert file(path, tmp_path).read() == ((), ())


def test_without_a_path_nothing_is_kept(tmp_path: Path) -> None:
    file(None, tmp_path).write(measured.Costs(STEPS, FIXED))
    assert file(None, tmp_path).read() == ((), ())


@pytest.mark.parametrize("key", ["device", "revisions", "costs", "fixed"])
def test_a_broken_file_is_said_and_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture, key: str) -> None:
    path = tmp_path / "costs.json"
    file(path, tmp_path).write(measured.Costs(STEPS, FIXED))
    if key == "device":
        rewritten(path, lambda saved: saved.pop("device"))
    else:
        rewritten(path, lambda saved: saved.update({key: [["counting"]]}))
    with caplog.at_level(logging.WARNING):
        assert file(path, tmp_path).read() == ((), ())
    assert len(caplog.records) == 1


@pytest.mark.parametrize("wrong", [None, "1", -1, 1.5, 1e400, float("nan"), 10**30, [], {}], ids=repr)
@pytest.mark.parametrize(("key", "place"), [("costs", 3), ("costs", 5), ("costs", 6), ("fixed", 2), ("fixed", 4)])
def test_numbers_that_nobody_measured_never_reach_the_engine(tmp_path: Path, key: str, place: int, wrong: Any) -> None:
    path = tmp_path / "costs.json"
    file(path, tmp_path).write(measured.Costs(STEPS, FIXED))
    rewritten(path, lambda saved: saved[key][0].__setitem__(place, wrong))
    assert file(path, tmp_path).read() == ((), ())


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "7", "null", '{"device": '], ids=lambda text: text[:9])
def test_a_file_of_something_else_is_done_without(tmp_path: Path, text: str) -> None:
    path = tmp_path / "costs.json"
    path.write_text(text)
    assert file(path, tmp_path).read() == ((), ())


def test_a_file_or_disk_that_refuses_is_said_and_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "costs.json"
    path.write_text("{")
    with caplog.at_level(logging.WARNING):
        assert file(path, tmp_path).read() == ((), ())
        file(path / "below", tmp_path).write(
            measured.Costs([step_cost.StepCost(step_cost.Shape("m", "1x1", False, 1), 1, 1)])
        )
    assert len(caplog.records) == 2
