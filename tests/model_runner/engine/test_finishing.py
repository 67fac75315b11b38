import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from darkroom.model_runner.engine.job import AdapterUse, Cancelled, Finished, Priority
from darkroom.model_runner.engine.state import State
from darkroom.model_runner.fixed_cost import FixedCost
from tests.model_runner.engine import counting
from tests.model_runner.engine.harness import Harness, job


@pytest.fixture
def slow(tmp_path: Path) -> Any:
    """A loop whose files are made when `pool.work()` is called; its models are loaded already."""
    run = Harness(tmp_path)
    run.loop.accept(job("first", model="counting"))
    run.run()
    run.pool = run.loop._floor.pool = counting.Later()
    del run.events[:], run.family.forwards[:], run.family.decoded[:]
    return run


def test_pictures_that_are_done_together_are_decoded_together(tmp_path: Path) -> None:
    run = Harness(tmp_path)
    for seed in range(3):
        run.loop.accept(job(str(seed), seed))
    run.loop.accept(job("wide", 9, width=64))
    run.run()
    # The first sizes are tried by doubling, after a lone one has been measured thrice.
    assert run.family.decoded == [[0], [1], [2], [9]]
    for seed in range(4):
        run.loop.accept(job(str(seed), seed))
    run.run()
    assert run.family.decoded[4:] == [[0, 1], [2, 3]]


def test_files_are_made_elsewhere_while_the_device_goes_on(slow: Any) -> None:
    slow.loop.accept(job("1", 1, steps=1))
    slow.loop.accept(job("2", 2, steps=3))
    slow.turn(3)
    assert slow.family.decoded == [[1]]
    assert slow.of("1")[-1:] != [Finished]
    while slow.loop.turn():
        pass
    assert not slow.is_idle
    assert slow.loop.snapshot.rows_live == 2
    slow.pool.work()
    slow.run()
    assert [isinstance(slow.end(key), Finished) for key in "12"] == [True, True]


def test_a_lone_decode_that_fails_ends_its_generation_and_teaches_nothing(tmp_path: Path) -> None:
    run = Harness(tmp_path)
    run.family.decode = lambda states: [][len(states)]  # type: ignore[method-assign]
    run.loop.accept(job("1"))
    run.run()
    assert run.end("1").code == "INTERNAL"
    assert run.loop._floor.decode_costs.snapshot() == ()


def test_what_comes_to_the_steps_is_measured_once_the_model_is_warm(slow: Any) -> None:
    assert slow.loop.snapshot.fixed_costs == ()  # "first" waited for its model
    slow.loop.accept(job("1", seeds=(1, 2)))
    while slow.loop.turn():
        pass
    slow.clock.work(500)
    slow.pool.work()
    slow.run()
    used = slow.end("1").usage
    assert (used.prepare_us, used.decode_us) == (101, 402)
    assert slow.loop.snapshot.fixed_costs == (FixedCost("counting", "32x32", 101, 201, 250),)


def test_cancel_while_the_file_is_made(slow: Any) -> None:
    slow.loop.accept(job("1", 1, steps=1))
    while slow.loop.turn():
        pass
    slow.loop.cancel("1")
    slow.pool.work()
    slow.run()
    assert isinstance(slow.end("1"), Cancelled)
    assert slow.end("1").usage.decode_us > 0


@pytest.mark.parametrize(("adapted", "code"), [(False, "NOT_FINITE"), (True, "ADAPTER_INVALID")])
def test_numbers_that_are_no_media_are_the_adapters_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapted: bool, code: str
) -> None:
    run = Harness(tmp_path)
    monkeypatch.setattr(run.family.bank, "get", lambda use: None)
    adapter = AdapterUse(path=Path("huge"), digest="0" * 64, scale=4.0)
    run.loop.accept(job("1", prompt="nan", adapters=(adapter,) if adapted else ()))
    run.run()
    assert run.end("1").code == code


def test_an_interactive_step_does_not_wait_for_a_decode_of_a_lower_class(slow: Any) -> None:
    slow.loop.accept(job("batch", 1, steps=1, priority=Priority.BATCH))
    slow.turn()
    slow.loop.accept(job("urgent", 2, steps=2, priority=Priority.INTERACTIVE))
    assert slow.turn(2) == [[2], [2]]
    assert slow.family.decoded == []
    while slow.loop.turn():
        pass
    assert slow.family.decoded == [[2], [1]]


def test_nothing_of_the_device_is_held_while_a_file_is_made(slow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = list[weakref.ref[Tensor]]()
    decode = slow.family.decode

    def watched(states: Sequence[State]) -> list[Tensor]:
        media: list[Tensor] = decode(states)
        decoded.extend(weakref.ref(each) for each in media)
        return media

    monkeypatch.setattr(slow.family, "decode", watched)
    slow.loop.accept(job("1", 1, steps=1))
    while slow.loop.turn():
        pass
    assert len(decoded) == 1
    assert decoded[0]() is None
    slow.pool.work()
    slow.run()
    assert isinstance(slow.end("1"), Finished)
