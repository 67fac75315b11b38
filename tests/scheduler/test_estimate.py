import dataclasses
from pathlib import Path
from typing import Any

import pytest

from darkroom import catalog, errors, ids, pricing
from darkroom.api.types.v1 import inputs_pb2, media_pb2
from darkroom.scheduler import bucket, estimate
from darkroom.scheduler.domain import fleet
from tests.scheduler import conftest, media_entries

RATES = pricing.Rates(nanos_per_image=1_000_000, nanos_per_megapixel=2_000_000, nanos_per_gpu_second=10_000_000)


def measured(steps_us: dict[str, int], **fixed: fleet.FixedCost) -> list[fleet.Accelerator]:
    fixed = {size.removeprefix("of_"): cost for size, cost in fixed.items()}
    return [fleet.Accelerator("cpu", True, bucket.Nearest(steps_us), fixed)]


def test_the_price_is_the_most_it_can_cost(catalog_dir: Path) -> None:
    wanted, entry = image(64, 128, steps=10, num_images=3), catalog.load(catalog_dir)[conftest.MODEL]
    cost = estimate.estimate(wanted, entry, measured({"64x128": 1_000}), rates=RATES, safety_factor=2.0)
    assert cost.steps_total == 30
    assert (cost.work_us, cost.fixed_us, cost.encode_us) == (30_000, 0, 0)
    # 3 images, 3 x 64 x 128 = 24,576 pixels, 2 x 0.03 s of accelerator
    assert cost.nanos == 3_000_000 + 49_152 + 600_000


def test_only_the_steps_after_a_picture_enters_are_reckoned_with(catalog_dir: Path) -> None:
    source = media_pb2.MediaRef(media_id=ids.new("med"))
    wanted = image(64, 64, steps=10, num_images=2, source_image=source, strength=0.3)
    entry = dataclasses.replace(catalog.load(catalog_dir)[conftest.MODEL], source_image="optional")
    cost = estimate.estimate(wanted, entry, measured({"64x64": 1_000}), rates=RATES, safety_factor=1.0)
    assert (cost.steps_total, cost.work_us) == (6, 6_000)


def test_text_and_decoding_are_work_and_cost_what_steps_do(catalog_dir: Path) -> None:
    wanted, entry = image(64, 128, steps=10, num_images=3), catalog.load(catalog_dir)[conftest.MODEL]
    known = measured({"64x128": 1_000}, of_64x128=fleet.FixedCost(prepare_us=4_000, decode_us=2_000, encode_us=500))
    cost = estimate.estimate(wanted, entry, known, rates=RATES, safety_factor=2.0)
    assert (cost.work_us, cost.fixed_us, cost.encode_us) == (40_000, 10_000, 500)
    assert cost.nanos == 3_000_000 + 49_152 + 800_000


def test_what_comes_to_the_steps_is_scaled_from_the_nearest_size(catalog_dir: Path) -> None:
    entry = catalog.load(catalog_dir)[conftest.MODEL]
    near, far = fleet.FixedCost(400, 100, 10), fleet.FixedCost(1, 1, 1)
    known = {"64x64": near, "1024x1024": far, "window": far, "a runner's own": far}
    draft = media_pb2.QUALITY_TIER_DRAFT
    assert estimate.fixed_cost(image(64, 64, guided=True, quality=draft), entry, known) == near
    assert estimate.fixed_cost(image(64, 128), entry, known) == (400, 200, 20)
    assert estimate.fixed_cost(inputs_pb2.AudioInput(), media_entries.audio(), known) == far
    assert estimate.fixed_cost(image(64, 64), entry, {"window": far}) == (0, 0, 0)


def test_a_step_is_guessed_by_its_pixels(catalog_dir: Path) -> None:
    entry = catalog.load(catalog_dir)[conftest.MODEL]
    assert estimate.step_cost_us(inputs_pb2.ImageInput(width=64, height=64), entry, {}) == 1_000
    assert estimate.step_cost_us(inputs_pb2.ImageInput(width=96, height=128), entry, {}) == 3_000


def test_a_deadline_that_can_be_met_is_accepted() -> None:
    estimate.check_deadline(deadline_us=None, expected_us=10**9, wait_us=0)
    estimate.check_deadline(deadline_us=3_000_000, expected_us=3_000_000, wait_us=2_000_000)


def test_a_hopeless_one_is_refused_with_an_estimate() -> None:
    with pytest.raises(errors.ResourceExhausted, match=r"about 3\.5 s") as refusal:
        estimate.check_deadline(deadline_us=3_000_000, expected_us=3_500_000, wait_us=2_500_000)
    assert refusal.value.reason == "DEADLINE_HOPELESS"
    assert refusal.value.retry_after_s == 2.5


def test_videos_are_priced_by_all_their_frames_and_guessed_by_them() -> None:
    video = inputs_pb2.VideoInput(width=64, height=64, num_frames=18, frames_per_second=8, steps=10)
    assert estimate.step_cost_us(video, media_entries.video(), {}) == 2_000  # twice the default's frames
    cost = estimate.estimate(video, media_entries.video(), measured({}), rates=RATES, safety_factor=1.0)
    assert (cost.work_us, cost.steps_total) == (20_000, 10)
    assert cost.nanos == 2 * 64 * 64 * 18 + 200_000


def test_a_sound_costs_its_time() -> None:
    sound = inputs_pb2.AudioInput(duration_us=5_000_000, steps=10)
    assert estimate.step_cost_us(sound, media_entries.audio(), {}) == 1_000
    cost = estimate.estimate(sound, media_entries.audio(), measured({}), rates=RATES, safety_factor=1.0)
    assert cost.nanos == 100_000


def test_the_seconds_that_it_plays_are_priced() -> None:
    rates = pricing.Rates(nanos_per_media_second=1_000_000)
    video = inputs_pb2.VideoInput(width=64, height=64, num_frames=18, frames_per_second=8, steps=10)
    sound = inputs_pb2.AudioInput(duration_us=5_000_000, steps=10)
    for wanted, entry, nanos in ((video, media_entries.video(), 2_250_000), (sound, media_entries.audio(), 5_000_000)):
        assert estimate.estimate(wanted, entry, measured({}), rates=rates, safety_factor=2.0).nanos == nanos


def image(width: int, height: int, *, guided: bool = False, **fields: Any) -> inputs_pb2.ImageInput:
    return inputs_pb2.ImageInput(width=width, height=height, guidance_scale=3.0 if guided else 1.0, **fields)


@pytest.mark.parametrize(
    ("wanted", "step_us"),
    [
        (image(64, 64), 100),
        (image(64, 64, guided=True), 190),  # measured, not twice the other
        (image(96, 128), 330),
        (image(96, 128, guided=True), 660),  # the size was measured without guidance only
        (image(64, 128), 220),  # nearer to 96x128
        (image(128, 128), 440),  # nearer to 96x128
        (image(64, 64, quality=media_pb2.QUALITY_TIER_DRAFT), 40),
        (image(96, 128, quality=media_pb2.QUALITY_TIER_DRAFT), 330),  # at most what LOSSLESS takes
        (image(64, 64, quality=media_pb2.QUALITY_TIER_HIGH), 100),
    ],
)
def test_what_was_not_measured_is_scaled_from_the_nearest_that_was(
    catalog_dir: Path, wanted: inputs_pb2.ImageInput, step_us: int
) -> None:
    entry = catalog.load(catalog_dir)[conftest.MODEL]
    known = {"64x64": 100, "64x64 guided": 190, "96x128": 330, "64x64 draft": 40, "window": 7, "a runner's own": 1}
    assert estimate.step_cost_us(wanted, entry, bucket.Nearest(known)) == step_us


def test_the_slowest_kind_counts_whatever_each_has_measured(catalog_dir: Path) -> None:
    entry = catalog.load(catalog_dir)[conftest.MODEL]
    fast = measured({"128x128": 100}, of_128x128=fleet.FixedCost(50, 20, 2))
    slow = measured({"64x64": 500}, of_64x64=fleet.FixedCost(40, 30, 1))
    none = measured({"window": 9_999}, window=fleet.FixedCost(9_999, 9_999, 9_999))
    wanted = image(128, 128, steps=10, num_images=1)
    cost = estimate.estimate(wanted, entry, [*fast, *slow, *none], rates=RATES, safety_factor=1.0)
    assert (cost.work_us, cost.fixed_us, cost.encode_us) == (10 * 4 * 500 + 50 + 4 * 30, 50 + 4 * 30, 4)
    alone = [estimate.estimate(wanted, entry, kind, rates=RATES, safety_factor=1.0).nanos for kind in (fast, slow)]
    assert cost.nanos >= max(alone)
    assert estimate.estimate(wanted, entry, none, rates=RATES, safety_factor=1.0).work_us == 10 * 4_000  # as guessed


def test_only_the_very_bucket_counts_as_measured(catalog_dir: Path) -> None:
    entry = catalog.load(catalog_dir)[conftest.MODEL]
    known = bucket.Nearest({"64x64": 1})
    assert estimate.is_measured(image(64, 64), entry, known)
    assert not estimate.is_measured(image(64, 64, guided=True), entry, known)
    assert not estimate.is_measured(image(64, 64, quality=media_pb2.QUALITY_TIER_HIGH), entry, known)
