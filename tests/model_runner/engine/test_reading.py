"""Pictures are read elsewhere; who needs them waits for that, and nobody else does."""

import io
import threading
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from darkroom.model_runner.engine import errors, pictures, reading
from darkroom.model_runner.engine.job import Cancelled, Failed, Finished, Priority
from tests.model_runner.engine import counting
from tests.model_runner.engine.harness import Harness, job


def file(width: int = 48, height: int = 40) -> bytes:
    written = io.BytesIO()
    PIL.Image.linear_gradient("L").resize((width, height)).convert("RGB").save(written, "PNG")
    return written.getvalue()


@pytest.fixture
def slow(tmp_path: Path) -> Any:
    """A loop whose pictures are read when `pool.work()` is called, two at a time; its model is loaded already."""
    run = Harness(tmp_path, encode_threads=3)
    run.loop.accept(job("first"))
    run.run()
    run.pool = run.loop._floor.pool = counting.Later()
    del run.events[:], run.family.forwards[:], run.family.prepared[:], run.family.given[:]
    return run


def finish(run: Any) -> None:
    while not run.is_idle:
        run.pool.work()
        run.loop.turn()


def test_the_device_goes_on_while_a_picture_is_read(slow: Any) -> None:
    slow.loop.accept(job("picture", 1, source_image=file()))
    slow.loop.accept(job("text", 2))
    assert slow.turn(3) == [[2], [2], [2]]
    assert slow.family.prepared == [["text"]]
    slow.pool.work()
    assert slow.turn(1) == [[2, 1]]
    assert slow.family.prepared == [["text"], ["picture"]]
    finish(slow)
    assert isinstance(slow.end("picture"), Finished)


def test_the_family_is_given_pictures_in_the_size_that_it_wants(slow: Any) -> None:
    slow.loop.accept(job("1", width=64, source_image=file(), mask_image=file(8, 8)))
    finish(slow)
    (given,) = slow.family.given
    assert [(picture.mode, picture.size) for picture in given.files.values()] == [("RGB", (64, 32))] * 2
    slow.family.sizing = pictures.as_sent
    slow.loop.accept(job("2", source_image=file()))
    finish(slow)
    assert slow.family.given[1].source_image.size == (48, 40)


def test_a_bad_picture_fails_its_generation_alone_and_names_the_field(slow: Any) -> None:
    slow.loop.accept(job("bad", source_image=file(), mask_image=file()[:60]))
    slow.loop.accept(job("good", source_image=file()))
    finish(slow)
    bad = slow.end("bad")
    assert isinstance(bad, Failed)
    assert (bad.code, bad.fault) == (errors.BadRequest.code, "request")
    assert bad.message.startswith("mask_image: not a readable picture")
    assert bad.usage.device_time_us == 0
    assert isinstance(slow.end("good"), Finished)
    assert slow.family.prepared == [["good"]]


def test_cancel_while_a_picture_is_read(slow: Any) -> None:
    slow.loop.accept(job("1", source_image=file()))
    assert not slow.loop.turn()
    slow.loop.cancel("1")
    assert isinstance(slow.end("1"), Cancelled)
    assert slow.is_idle
    slow.pool.work()
    assert not slow.loop.turn()
    assert slow.family.prepared == []


def test_reading_is_nobodys_device_time_but_some_of_preparing(slow: Any) -> None:
    before_us = slow.loop.snapshot.busy_us
    slow.loop.accept(job("1", source_image=file()))
    slow.loop.turn()
    slow.clock.now_us += 650_000
    finish(slow)
    end = slow.end("1")
    assert end.usage.prepare_us == 101  # as the family says of one
    assert slow.loop.snapshot.busy_us - before_us == end.usage.device_time_us
    assert {stage.name: stage.wall_us for stage in end.stages}["prepare"] == 650_101


def test_the_most_urgent_are_read_first_and_some_at_a_time(slow: Any) -> None:
    for key, priority in (
        ("a", Priority.BATCH),
        ("b", Priority.BATCH),
        ("c", Priority.STANDARD),
        ("d", Priority.INTERACTIVE),
    ):
        slow.loop.accept(job(key, priority=priority, source_image=file()))
    slow.loop.turn()
    slow.pool.work()
    slow.loop.turn()
    assert slow.family.prepared == [["d"]]
    finish(slow)
    assert sorted(key for keys in slow.family.prepared for key in keys) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(("threads", "at_a_time"), [(1, 1), (2, 1), (3, 2), (5, 4)])
def test_one_thread_is_left_for_files(tmp_path: Path, threads: int, at_a_time: int) -> None:
    run = Harness(tmp_path, encode_threads=threads)
    run.loop.accept(job("first"))
    run.run()
    later = run.loop._floor.pool = counting.Later()
    for seed in range(6):
        run.loop.accept(job(str(seed), seed, source_image=file()))
    run.loop.turn()
    assert len(later._given) == at_a_time


def test_tenants_have_their_pictures_read_in_turn(slow: Any) -> None:
    """Whoever sends a hundred holds up nobody else's first."""
    for seed in range(6):
        slow.loop.accept(job(f"a{seed}", seed, tenant_id="a", source_image=file()))
    slow.loop.turn()
    for tenant in "bc":
        slow.clock.now_us += 1
        slow.loop.accept(job(tenant, 9, tenant_id=tenant, source_image=file()))
    slow.pool.work()
    slow.loop.turn()
    slow.pool.work()
    slow.loop.turn()
    read = [key for key, generation in slow.loop._floor.generations.items() if generation.is_read]
    assert {"b", "c"} <= {*read, *(key for keys in slow.family.prepared for key in keys)}


def test_pictures_of_those_who_wait_long_do_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PIXELS_AHEAD_MAX", 2 * 32 * 32)
    run = Harness(tmp_path, rows_live_max=1, encode_threads=3)
    for seed in range(6):
        run.loop.accept(job(str(seed), seed, source_image=file()))
    run.turn()
    assert [len(each.pictures) for each in run.loop._floor.generations.values()] == [0, 1, 1, 1, 0, 0]
    run.loop.accept(job("urgent", 9, priority=Priority.INTERACTIVE, source_image=file()))
    assert 9 in run.turn()[0]  # who is less urgent holds it up no more than elsewhere
    run.run()
    assert len(run.family.given) == 7


def test_whoever_comes_back_from_a_failed_batch_has_its_pictures_still(slow: Any) -> None:
    slow.loop.accept(job("1", source_image=file()))
    slow.loop.accept(job("2", prompt="bad", source_image=file()))
    finish(slow)
    assert slow.family.prepared == [["1", "2"], ["1"], ["2"]]
    assert isinstance(slow.end("1"), Finished)
    assert all(isinstance(given.source_image, PIL.Image.Image) for given in slow.family.given)


def test_an_engine_reads_pictures_on_another_thread(
    specs: Any, record: Any, make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    sized = pictures.sized

    def watched(*given: Any) -> PIL.Image.Image:
        threads.append(threading.current_thread().name)
        return sized(*given)

    monkeypatch.setattr(pictures, "sized", watched)
    run = record([specs["true_cfg"]])
    run.submit(make_job("1", source_image=file(), mask_image=file(), strength=0.5, steps=2))
    run.finished("1")
    assert len(threads) == 2
    assert all(name.startswith("engine-files") for name in threads)


def test_who_has_waited_long_is_read_before_more_urgent_newcomers(slow: Any) -> None:
    slow.loop.accept(job("old", priority=Priority.BATCH, source_image=file()))
    for seed in range(2):
        slow.loop.accept(job(str(seed), seed, priority=Priority.INTERACTIVE, source_image=file()))
    slow.loop.turn()
    slow.clock.now_us += 2 * slow.loop._config.ageing_us
    for seed in range(2, 6):
        slow.loop.accept(job(str(seed), seed, priority=Priority.INTERACTIVE, source_image=file()))
    slow.pool.work()
    slow.loop.turn()
    slow.pool.work()
    slow.loop.turn()
    assert slow.loop._floor.generations["old"].is_read or "old" in {
        key for keys in slow.family.prepared for key in keys
    }
    assert not slow.loop._floor.generations["5"].is_read
