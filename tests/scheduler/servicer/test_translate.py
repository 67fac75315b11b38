import dataclasses
import datetime
from pathlib import Path

import psutil

from darkroom import catalog, pricing
from darkroom.api.scheduler.v1 import generation_pb2, model_service_pb2
from darkroom.api.types.v1 import media_pb2
from darkroom.scheduler.domain import generation as domain
from darkroom.scheduler.servicer import translate
from tests.scheduler import conftest, test_history

NOW = datetime.datetime(2026, 1, 1, 12, 0, 0, 250_000, tzinfo=datetime.UTC)
RATES = pricing.Rates(nanos_per_image=5, nanos_per_media_second=2)


def test_every_part_of_a_finished_one_is_told() -> None:
    noun = test_history.generation(
        generation_id="gen_1",
        input=conftest.request().SerializeToString(),
        priority=domain.Priority.BATCH,
        tags={"team": "a"},
        finished_at=NOW,
        runner_id="run_1",
        usage=dataclasses.asdict(pricing.Quantities(gpu_time_us=5, steps=7, images=1, pixels=9)),
        stages={"queued_us": 3, "denoise_us": 4},
        artifacts=[{"media_id": "med_1", "media_type": "image/png", "size_bytes": "12", "seed": "7"}],
        error={"reason": "POISONED", "message": "It killed three runners.", "retryable": False},
        estimate_nanos=11,
    )
    told = translate.generation(noun)
    assert told.generation_id == "gen_1"
    assert told.state == generation_pb2.GENERATION_STATE_SUCCEEDED
    assert told.priority == domain.Priority.BATCH
    assert told.image.prompt == "a red circle"
    assert dict(told.tags) == {"team": "a"}
    assert told.finished_at.ToDatetime(tzinfo=datetime.UTC) == NOW
    assert not told.HasField("deadline")
    assert (told.usage.gpu_time_us, told.usage.pixels) == (5, 9)
    assert (told.stages.queued_us, told.stages.denoise_us) == (3, 4)
    assert (told.artifacts[0].media_id, told.artifacts[0].size_bytes, told.artifacts[0].seed) == ("med_1", 12, 7)
    assert (told.error.reason, told.error.retryable) == ("POISONED", False)
    assert (told.estimate.nanos, told.runner_id) == (11, "run_1")


def test_what_a_later_version_keeps_besides_is_left_out() -> None:
    noun = test_history.generation(
        artifacts=[{"media_id": "med_1", "quality": "QUALITY_TIER_LATER", "later": 1}],
        usage={"steps": 10, "later": 1},
        stages={"queued_us": 3, "later_us": 1},
        error={"reason": "POISONED", "message": "m", "retryable": False, "later": "x"},
    )
    told = translate.generation(noun)
    assert (told.artifacts[0].media_id, told.usage.steps, told.stages.queued_us) == ("med_1", 10, 3)
    assert told.error.reason == "POISONED"


def test_pictures_that_came_inline_are_told_without_their_bytes() -> None:
    asked = conftest.request()
    asked.image.source_image.inline = asked.image.mask_image.inline = bytes(250_000)
    told = translate.generation(test_history.generation(input=asked.SerializeToString()))
    assert told.ByteSize() < 1_000
    assert told.image.source_image.WhichOneof("source") == told.image.mask_image.WhichOneof("source") == "inline"
    asked.image.source_image.media_id = "med_1"
    told = translate.generation(test_history.generation(input=asked.SerializeToString()))
    assert told.image.source_image.media_id == "med_1"


def test_those_bytes_are_not_kept_with_what_is_told() -> None:
    asked = conftest.request()
    asked.image.source_image.inline = bytes(1 << 20)
    noun = test_history.generation(input=asked.SerializeToString())
    before_bytes = psutil.Process().memory_info().rss
    kept = [translate.generation(noun) for _ in range(100)]
    assert psutil.Process().memory_info().rss - before_bytes < 50 << 20, len(kept)


def test_states_go_both_ways() -> None:
    for state in domain.State:
        assert translate.state_filter(translate.state(state)) == state.value
    assert translate.state_filter(generation_pb2.GENERATION_STATE_UNSPECIFIED) == ""


def test_runners_and_price_are_told_with_a_model(catalog_dir: Path) -> None:
    told = translate.model(catalog.load(catalog_dir)[conftest.MODEL], runners=3, price=RATES)
    assert told.runners == 3
    assert (told.price.nanos_per_image, told.price.nanos_per_media_second, told.price.nanos_per_gpu_second) == (5, 2, 0)


def test_what_a_model_offers_is_told(catalog_dir: Path) -> None:
    told = translate.model(catalog.load(catalog_dir)[conftest.MODEL], runners=0, price=RATES)
    assert list(told.samplers) == ["flow_euler", "unipc"]
    assert list(told.qualities) == [media_pb2.QUALITY_TIER_LOSSLESS, media_pb2.QUALITY_TIER_DRAFT]


def test_whether_a_model_takes_pictures_is_told(catalog_dir: Path) -> None:
    entry = catalog.load(catalog_dir)[conftest.MODEL]
    told = translate.model(entry, runners=0, price=RATES)
    assert (told.source_image, told.mask_image) == (model_service_pb2.PICTURE_USE_NONE,) * 2
    told = translate.model(
        dataclasses.replace(entry, source_image="required", mask_image="optional"), runners=0, price=RATES
    )
    assert told.source_image == model_service_pb2.PICTURE_USE_REQUIRED
    assert told.mask_image == model_service_pb2.PICTURE_USE_OPTIONAL
