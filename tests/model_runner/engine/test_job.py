import dataclasses

import pytest

from darkroom.model_runner.engine.job import Job, Usage


def test_device_time_is_the_sum_of_its_parts() -> None:
    usage = Usage(adapters_us=1, prepare_us=20, denoise_us=300, decode_us=4000, steps=1, images=1, pixels=1)
    assert usage.device_time_us == 4321


def test_nouns_cannot_be_changed(make_job) -> None:  # type: ignore[no-untyped-def]
    job: Job = make_job("1")
    with pytest.raises(dataclasses.FrozenInstanceError):
        job.steps = 2  # type: ignore[misc]


def test_files_are_those_that_it_has(make_job) -> None:  # type: ignore[no-untyped-def]
    assert make_job("1").files == {}
    assert make_job("1", mask_image=b"mask").files == {"mask_image": b"mask"}
    assert list(make_job("1", source_image=b"picture", mask_image=b"mask").files) == ["source_image", "mask_image"]
