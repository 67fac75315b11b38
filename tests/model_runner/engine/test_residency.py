import dataclasses
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest

from darkroom.model_runner.engine import errors, host_cache, revision
from darkroom.model_runner.engine.job import EngineConfig
from darkroom.model_runner.engine.residency import Residency
from tests.model_runner.engine import counting


class Ticking(counting.Clock):
    """A clock by which whatever looks at it takes a microsecond at least."""

    tick_us = 0

    def __call__(self) -> int:
        self.now_us += self.tick_us
        return self.now_us


class House:
    """A residency of four models of one byte each, whose loads take as long as `slow` says."""

    def __init__(self, path: Path, memory_bytes_max: int = 2, host_blocks: int = 0, **changes: Any) -> None:
        self.clock = Ticking()
        self.slow = {"a": 10, "b": 10, "c": 10, "d": 100}
        self.loads: list[str] = []
        self.error: Exception | None = None
        specs = [counting.spec(path, **({"name": name} | changes)) for name in self.slow]
        self.residency = Residency(
            EngineConfig(memory_bytes_max=memory_bytes_max, host_cache_bytes_max=host_blocks * host_cache.BLOCK_BYTES),
            specs,
            {"counting": self.load},
            pool=counting.Inline(),
            now_us=self.clock,
            wake=lambda: None,
        )

    def load(self, spec: Any, **_: Any) -> counting.Counting:
        self.loads.append(spec.name)
        self.clock.work(self.slow[spec.name])
        if self.error:
            error, self.error = self.error, None
            raise error
        return counting.Counting()

    def use(self, *names: str, in_use: frozenset[str] = frozenset()) -> None:
        for name in names:
            if not self.residency.has(name):
                assert self.residency.can_load(name, in_use=in_use)
                self.residency.load(name, in_use=in_use)
            self.residency.use(name)
            self.clock.work(1)


def test_loads_on_demand_and_keeps(tmp_path: Path) -> None:
    house = House(tmp_path)
    assert not house.residency.has("a")
    house.use("a", "d", "a")
    assert house.loads == ["a", "d"]
    assert house.residency.models == ("d", "a")


def test_the_longest_unused_leaves_for_another(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.use("a", "b", "a", "c")
    assert house.residency.models == ("a", "c")


def test_what_costs_much_to_have_again_stays_longer(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.use("d", "a")
    house.clock.work(50)
    house.use("b")
    assert set(house.residency.models) == {"d", "b"}  # d was used earlier than a, but is ten times as dear
    house.clock.work(100_000)
    house.use("b", "a")
    assert set(house.residency.models) == {"b", "a"}


def test_what_is_in_use_leaves_last_and_not_before_it_paid_off(tmp_path: Path) -> None:
    house = House(tmp_path, memory_bytes_max=1)
    house.use("a")
    assert not house.residency.can_load("b", in_use={"a"})
    assert house.residency.can_load("b", in_use=set())
    house.clock.work(40)
    assert house.residency.can_load("b", in_use={"a"})
    house.use("b", in_use=frozenset({"a"}))
    assert house.residency.models == ("b",)


def test_a_model_too_big_for_the_runner_is_refused_at_once(tmp_path: Path) -> None:
    house = House(tmp_path, memory_bytes=3)
    assert house.residency.can_load("a", in_use={"b"})
    with pytest.raises(errors.LoadFailed, match="more than this runner has"):
        house.residency.load("a", in_use=set())


def test_other_weights_than_the_entry_says_are_refused(tmp_path: Path) -> None:
    house = House(tmp_path, revision="sha256:" + "0" * 64)
    for _ in range(2):  # and looked at again the next time
        with pytest.raises(
            errors.LoadFailed, match=r"not those of its catalogue entry, their revision is sha256:[0-9a-f]{64}$"
        ):
            house.use("a")
    assert house.loads == []


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    house = House(tmp_path)
    (tmp_path / "no_file.safetensors").mkdir()
    with pytest.raises(errors.LoadFailed, match="cannot be read"):
        house.use("a")


def test_a_model_not_served_is_refused(tmp_path: Path) -> None:
    for house, name in ((House(tmp_path, family="sdxl"), "a"), (House(tmp_path), "other")):
        assert house.residency.can_load(name, in_use=set())
        with pytest.raises(errors.LoadFailed, match="does not serve"):
            house.residency.load(name, in_use=set())


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.error = OSError("no such file")
    with pytest.raises(errors.LoadFailed, match="could not be loaded"):
        house.use("a")


def test_short_memory_makes_idle_models_leave_and_is_tried_once_more(tmp_path: Path) -> None:
    house = House(tmp_path, memory_bytes_max=9)
    house.use("a", "b")
    house.error = MemoryError()
    house.use("c", in_use=frozenset({"b"}))
    assert house.loads == ["a", "b", "c", "c"]
    assert house.residency.models == ("b", "c")


def test_what_a_load_that_failed_has_left_is_gone_when_it_is_tried_once_more(tmp_path: Path) -> None:
    class Knot:
        """Like a module that knows its parent: nobody but the collector lets go of it."""

        def __init__(self) -> None:
            self.itself = self

    house = House(tmp_path)
    left = list[weakref.ref[Knot]]()

    def load(spec: Any, **_: Any) -> counting.Counting:
        held = [knot for knot in left if knot() is not None]
        assert not held
        knot = Knot()
        left.append(weakref.ref(knot))
        if len(left) == 1:
            raise MemoryError
        return counting.Counting()

    house.residency._families = {"counting": load}
    gc.disable()
    try:
        house.use("a")
    finally:
        gc.enable()
    assert len(left) == 2


def test_what_left_returns_from_host_memory(tmp_path: Path) -> None:
    house = House(tmp_path, host_blocks=1)
    house.use("a")
    family = house.residency.use("a")
    house.use("b", "c")
    assert not house.residency.has("a")
    (tmp_path / "no_file.safetensors").mkdir()  # files that cannot be read any more are not asked for
    house.use("a")
    assert house.loads == ["a", "b", "c"]
    assert house.residency.use("a") is family


@pytest.mark.parametrize(("host_blocks", "staying"), [(0, "d"), (1, "a")])
def test_what_would_return_from_host_memory_leaves_as_lightly_as_others(
    tmp_path: Path, host_blocks: int, staying: str
) -> None:
    house = House(tmp_path, host_blocks=host_blocks)
    house.clock.tick_us = 1
    house.use("a", "b", "c", "a", "d", "a")
    house.clock.work(30)
    house.use("b")  # d was used earlier than a, and takes ten times as long to load from its files
    assert house.residency.models == (staying, "b")


def test_models_that_come_and_go_make_the_same_pictures(specs: Any, make_job: Any, record: Any) -> None:
    names = ("true_cfg", "embedded")
    recorder = record([specs[name] for name in names], memory_bytes_max=1_500_000, host_cache_bytes_max=1 << 30)
    made: dict[str, list[bytes]] = {name: [] for name in names}
    for turn in range(3):
        for name in names:
            recorder.submit(make_job(f"{name} {turn}", model=name, steps=2))
            made[name] += [output.data for output in recorder.finished(f"{name} {turn}")[0].outputs]
            snapshot = recorder.engine.snapshot()
            assert snapshot.models == (name,)
            assert snapshot.host_cache_bytes == (0 if (turn, name) == (0, "true_cfg") else host_cache.BLOCK_BYTES)
    for _, once, again in made.values():  # at first from files, at whose odd addresses the CPU rounds otherwise
        assert once == again


def test_a_real_model_is_loaded_by_its_family(specs: Any) -> None:
    from darkroom.model_runner.engine.families import FAMILIES, flux

    residency = Residency(
        EngineConfig(),
        list(specs.values()),
        FAMILIES,
        pool=counting.Inline(),
        now_us=counting.Clock(),
        wake=lambda: None,
    )
    assert residency.can_load("true_cfg", in_use=set())
    residency.load("true_cfg", in_use=set())
    assert isinstance(residency.use("true_cfg"), flux.Flux)
    empty = dataclasses.replace(specs["none"], path=specs["none"].path / "vae")
    assert revision.digest(empty.path) != empty.revision


def test_a_model_whose_rows_hold_on_to_it_stays(tmp_path: Path) -> None:
    house = House(tmp_path, memory_bytes_max=1)
    house.use("a")
    house.clock.work(1000)
    assert not house.residency.can_load("b", in_use={"a"}, rooted={"a"})
    assert house.residency.can_load("b", in_use={"a"})


def test_of_two_in_use_the_one_that_must_stay_stays(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.use("d")
    house.clock.work(1000)
    house.use("a", "d")
    house.clock.work(10)
    house.residency.use("d")
    assert house.residency.can_load("b", in_use={"a", "d"})
    house.use("b", in_use=frozenset({"a", "d"}))
    assert house.residency.models == ("a", "b")  # a costs less to have again, but has only just come


def test_weights_are_read_for_one_model_at_a_time(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.residency._pool = later = counting.Later()
    assert not any(house.residency.can_load(name, in_use=set()) for name in "abc")
    assert len(later._given) == 1
    later.work()
    assert [house.residency.can_load(name, in_use=set()) for name in "abc"] == [True, False, False]
    assert len(later._given) == 1
