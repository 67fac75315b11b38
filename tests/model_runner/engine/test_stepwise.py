import gc
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from darkroom.model_runner.engine import stepwise


def counting(done: list[int], *, steps: int = 3) -> Callable[[Any], str]:
    """Return a call that notes its steps."""

    def call(bar: Any) -> str:
        with bar(total=steps) as progress:
            for step in range(steps):
                done.append(step)
                progress.update()
        return "made"

    return call


def threads() -> int:
    return sum(thread.name == "pipeline" for thread in threading.enumerate())


def wait_for_no_threads() -> None:
    for _ in range(1000):
        if not threads():
            return
        time.sleep(0.01)
    raise AssertionError("a call goes on that nobody waits for")


def test_a_call_goes_on_only_when_asked() -> None:
    done: list[int] = []
    run = stepwise.Run(counting(done))
    assert done == []
    assert [run.step() for _ in range(3)] == [False, False, True]
    assert done == [0, 1, 2]
    assert run.result is None  # what follows the last step is not done yet
    assert run.finish() == "made"
    assert run.step()
    wait_for_no_threads()


def test_two_calls_take_turns() -> None:
    first: list[int] = []
    second: list[int] = []
    one, other = stepwise.Run(counting(first)), stepwise.Run(counting(second))
    one.step()
    other.step()
    one.step()
    assert (first, second) == ([0, 1], [0])


def test_an_iterable_is_a_bar_too() -> None:
    seen: list[int] = []

    def call(bar: Any) -> int:
        for item in bar([5, 6]):
            seen.append(item)
        return sum(seen)

    run = stepwise.Run(call)
    assert not run.step()
    assert seen == [5]
    assert run.step()
    assert run.finish() == 11


def test_a_call_may_take_fewer_steps_than_it_said() -> None:
    run = stepwise.Run(lambda bar: bar(total=10).update() or "made")
    assert not run.step()
    assert run.step()
    assert run.finish() == "made"


def test_a_call_that_is_dropped_stops_where_it_rests_and_lets_go_of_what_it_held() -> None:
    class Held:
        pass

    done: list[int] = []
    held: list[weakref.ref[Held]] = []

    def call(bar: Any) -> None:
        tensor = Held()
        held.append(weakref.ref(tensor))
        counting(done)(bar)

    run = stepwise.Run(call)
    run.step()
    del run
    wait_for_no_threads()
    gc.collect()
    assert done == [0]
    assert held[0]() is None


def test_a_failure_is_raised_where_the_step_was_asked_for_and_the_next_step_begins_anew() -> None:
    tries: list[int] = []

    def call(bar: Any) -> str:
        tries.append(len(tries))
        if len(tries) == 1:
            raise RuntimeError("short of memory")
        return counting([])(bar)

    run = stepwise.Run(call)
    with pytest.raises(RuntimeError, match="short of memory"):
        run.step()
    assert not run.step()
    assert run.finish() == "made"


def test_the_thread_computes_in_inference_mode() -> None:
    assert stepwise.Run(lambda bar: torch.is_inference_mode_enabled()).finish() is True
