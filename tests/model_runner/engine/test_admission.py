from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from darkroom.model_runner.engine.job import Failed, Finished, Priority
from tests.model_runner.engine.harness import Harness, job


@pytest.fixture
def harness(tmp_path: Path) -> Callable[..., Harness]:
    return lambda **config: Harness(tmp_path, **config)


def test_those_who_wait_are_prepared_together(harness: Any) -> None:
    run = harness(batch_rows_max=3)
    for seed in range(4):
        run.loop.accept(job(str(seed), seed))
    run.loop.accept(job("other", 9, model="other"))
    run.run()
    assert run.family.prepared == [["0", "1", "2"], ["3"], ["other"]]
    # 100 us and 1 us each, by equal shares.
    assert [run.end(key).usage.prepare_us for key in "0123"] == [35, 34, 34, 101]


def test_one_that_is_refused_is_refused_alone(harness: Any) -> None:
    run = harness()
    for key, prompt in (("1", ""), ("2", "bad"), ("3", "")):
        run.loop.accept(job(key, prompt=prompt))
    run.run()
    assert run.family.prepared == [["1", "2", "3"], ["1"], ["2"], ["3"]]
    assert (run.end("2").code, run.end("2").fault) == ("REQUEST_INVALID", "request")
    assert isinstance(run.end("1"), Finished)
    assert isinstance(run.end("3"), Finished)


def test_an_urgent_one_is_not_held_up_by_preparing_others(harness: Any) -> None:
    run = harness()
    run.loop.accept(job("standard", 1))
    run.loop.accept(job("interactive", 2, priority=Priority.INTERACTIVE, steps=1))
    run.turn()
    assert run.family.prepared == [["interactive"]]
    assert run.family.forwards == [[2]]


def test_each_class_has_its_own_places(harness: Any) -> None:
    run = harness(rows_live_max=2)
    for seed in (1, 2, 3):
        run.loop.accept(job(str(seed), seed))
    run.turn()
    run.loop.accept(job("interactive", 9, priority=Priority.INTERACTIVE))
    assert 9 in run.turn()[0]
    assert run.loop.snapshot.jobs_waiting == 1
    assert run.loop.snapshot.rows_live == 3


def test_a_lone_generation_with_more_images_than_places_is_taken(harness: Any) -> None:
    run = harness(rows_live_max=2)
    run.loop.accept(job("1", seeds=(1, 2, 3)))
    assert run.turn() == [[1, 2, 3]]


def test_who_waits_for_a_model_is_told_how_long_it_took(harness: Any) -> None:
    run = harness()
    run.loop.accept(job("1"))
    run.loop.accept(job("2"))
    run.run()
    for key in ("1", "2"):
        assert {stage.name: stage.wall_us for stage in run.end(key).stages}["load"] == 7000
    run.loop.accept(job("3"))
    run.run()
    assert "load" not in {stage.name for stage in run.end("3").stages}
    assert run.loop.snapshot.platform_us == 7000


def test_a_model_that_cannot_be_loaded_fails_who_wants_it(harness: Any) -> None:
    run = harness(memory_bytes_max=0)
    run.loop.accept(job("1"))
    run.loop.accept(job("2", model="unknown"))
    run.run()
    for key in "12":
        assert isinstance(run.end(key), Failed)
        assert run.end(key).code == "MODEL_LOAD_FAILED"


def test_places_are_kept_for_who_has_waited_long_for_many(harness: Any) -> None:
    run = harness(rows_live_max=4, ageing_us=20_000)
    for seed in range(3):
        run.loop.accept(job(f"small {seed}", seed))
    run.turn()
    run.loop.accept(job("large", seeds=(900, 901, 902, 903)))
    for seed in range(3, 200):
        run.loop.accept(job(f"small {seed}", seed))  # one a step: there are always some that fit
        if 900 in run.turn()[0]:
            break
    assert 20_000 < run.clock.now_us < 60_000
    assert "large" in {row.generation.job.key for row in run.loop._floor.rows}
