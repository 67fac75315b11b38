import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import duration_pb2, struct_pb2

from darkroom import catalog, errors, ids
from darkroom.api.types.v1 import inputs_pb2, media_pb2
from darkroom.scheduler import admit
from tests.scheduler import conftest, media_entries

ADAPTER = ids.new("lora")
MEDIA = media_pb2.MediaRef(media_id=ids.new("med"))


def image(**fields: Any) -> dict[str, Any]:
    return {"image": inputs_pb2.ImageInput(**{"prompt": "a red circle", **fields})}


def adapter(adapter_id: str = ADAPTER, **fields: Any) -> inputs_pb2.AdapterRef:
    return inputs_pb2.AdapterRef(adapter_id=adapter_id, **fields)


def duration(seconds: int = 0, nanos: int = 0) -> duration_pb2.Duration:
    return duration_pb2.Duration(seconds=seconds, nanos=nanos)


BAD = [
    ("model", {"model": ""}),
    ("model", {"model": "../test-image"}),
    ("model", {"model": "Test-Image"}),
    ("model", {"model": "test-image\0"}),
    ("model", {"model": "ﬁlm"}),
    ("model", {"model": "x" * 200_000}),
    ("model", {"model": "https://example.com/model"}),
    ("priority", {"priority": 9}),
    ("priority", {"priority": -1}),
    ("idempotency_key", {"idempotency_key": ""}),
    ("idempotency_key", {"idempotency_key": "k" * 256}),
    ("idempotency_key", {"idempotency_key": "a\nb"}),
    ("idempotency_key", {"idempotency_key": "ключ"}),
    ("deadline", {"deadline": duration(0)}),
    ("deadline", {"deadline": duration(-1)}),
    ("deadline", {"deadline": duration(0, 1)}),
    ("deadline", {"deadline": duration(100 * 365 * 86400)}),
    ("deadline", {"deadline": duration(1, -1)}),
    ("deadline", {"deadline": duration(1, 2 * 10**9)}),
    ("tags", {"tags": {str(number): "x" for number in range(17)}}),
    ("tags", {"tags": {"": "x"}}),
    ("tags", {"tags": {"k" * 65: "x"}}),
    ("tags", {"tags": {"k": "v" * 257}}),
    ("tags", {"tags": {"k": "\x1b[31m"}}),
    ("image", {"image": None}),
    ("video", {"image": None, "video": inputs_pb2.VideoInput(prompt="x")}),
    ("audio", {"image": None, "audio": inputs_pb2.AudioInput(prompt="x")}),
    ("lora_training", {"image": None, "lora_training": inputs_pb2.LoraTrainingInput()}),
    ("image.sampler", image(sampler="euler")),
    ("image.sampler", image(sampler="FLOW_EULER")),
    ("image.quality", image(quality=9)),
    ("image.quality", image(quality=media_pb2.QUALITY_TIER_HIGH)),
    ("image.prompt", image(prompt="")),
    ("image.prompt", image(prompt=" \n\t ")),
    ("image.prompt", image(prompt="x" * 2001)),
    ("image.prompt", image(prompt="é" * 1001)),
    ("image.prompt", image(prompt="x" * 1_000_000)),
    ("image.prompt", image(prompt="a\x1b[2Jb")),
    ("image.prompt", image(prompt="a\0b")),
    ("image.prompt", image(prompt="a\u202eb")),
    ("image.negative_prompt", image(negative_prompt="x" * 2001)),
    ("image.negative_prompt", image(negative_prompt="\x07")),
    ("image.width", image(width=-1)),
    ("image.width", image(width=63)),
    ("image.width", image(width=65)),
    ("image.width", image(width=144)),
    ("image.width", image(width=2**31 - 1)),
    ("image.width", image(width=128, height=128)),  # 16384 pixels of 12288
    ("image.height", image(height=8)),
    ("image.height", image(height=72)),
    ("image.steps", image(steps=-1)),
    ("image.steps", image(steps=101)),
    ("image.num_images", image(num_images=5)),
    ("image.num_images", image(num_images=-(2**31))),
    ("image.guidance_scale", image(guidance_scale=math.nan)),
    ("image.guidance_scale", image(guidance_scale=math.inf)),
    ("image.guidance_scale", image(guidance_scale=-math.inf)),
    ("image.guidance_scale", image(guidance_scale=0.0)),
    ("image.guidance_scale", image(guidance_scale=20.1)),
    ("image.seed", image(seed=-1)),
    ("image.seed", image(seed=2**63 - 1)),
    ("image.source_image", image(source_image=MEDIA)),
    ("image.mask_image", image(mask_image=MEDIA)),
    ("image.strength", image(strength=0.5)),
    ("image.adapters", image(adapters=[adapter(ids.new("lora")) for _ in range(3)])),
    ("image.adapters[0].adapter_id", image(adapters=[adapter("")])),
    ("image.adapters[0].adapter_id", image(adapters=[adapter("lora_../../etc/passwd")])),
    ("image.adapters[0].adapter_id", image(adapters=[adapter(ids.new("gen"))])),
    ("image.adapters[1].adapter_id", image(adapters=[adapter(), adapter()])),
    ("image.adapters[0].scale", image(adapters=[adapter(scale=math.nan)])),
    ("image.adapters[0].scale", image(adapters=[adapter(scale=4.5)])),
    ("image.adapters[1].scale", image(adapters=[adapter(ids.new("lora")), adapter(scale=-math.inf)])),
    ("image.extras.sharpness", image(extras=struct_pb2.Struct(fields={"sharpness": struct_pb2.Value(number_value=1)}))),
]


@pytest.fixture
def models(catalog_dir: Path) -> dict[str, catalog.ModelEntry]:
    return catalog.load(catalog_dir)


@pytest.mark.parametrize(("field", "fields"), BAD, ids=[f"{number}-{field}" for number, (field, _) in enumerate(BAD)])
def test_every_bad_field_is_named(models: dict[str, catalog.ModelEntry], field: str, fields: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidArgument) as refusal:
        admit.check(conftest.request(**fields), models)
    assert [violation.field for violation in refusal.value.violations] == [field]


def test_all_bad_fields_are_named_at_once(models: dict[str, catalog.ModelEntry]) -> None:
    bad = conftest.request(idempotency_key="", **image(width=1, steps=1000, prompt=""))
    with pytest.raises(errors.InvalidArgument) as refusal:
        admit.check(bad, models)
    fields = {violation.field for violation in refusal.value.violations}
    assert fields == {"idempotency_key", "image.width", "image.steps", "image.prompt"}


def test_descriptions_repeat_no_value(models: dict[str, catalog.ModelEntry]) -> None:
    canary = "canary-" * 400
    with pytest.raises(errors.InvalidArgument) as refusal:
        admit.check(conftest.request(tags={canary: canary}, **image(prompt=canary)), models)
    assert "canary" not in str(refusal.value)


def test_an_unknown_model_is_not_found(models: dict[str, catalog.ModelEntry]) -> None:
    with pytest.raises(errors.NotFound):
        admit.check(conftest.request(model="no-such-model"), models)


@pytest.mark.parametrize(
    "fields",
    [
        image(),
        image(prompt="x" * 2000),
        image(prompt="line\nline\ttab e\u0301 ((a:1.5))"),
        image(width=96, height=128, steps=100, num_images=4, guidance_scale=1.0, seed=0),
        image(adapters=[adapter(scale=-4.0)]),
        {"deadline": duration(0, 1_000_000)},
        {"deadline": duration(7 * 86400)},
        {"tags": {str(number): "v" * 256 for number in range(16)}},
    ],
)
def test_the_edges_are_accepted(models: dict[str, catalog.ModelEntry], fields: dict[str, Any]) -> None:
    assert admit.check(conftest.request(**fields), models) is models[conftest.MODEL]


def test_fields_that_nobody_knows_are_dropped(models: dict[str, catalog.ModelEntry]) -> None:
    asked = conftest.request()
    asked.image.MergeFromString(b"\xfa\x7c\x03abc")  # field 1999
    assert b"abc" in asked.SerializeToString()
    assert b"abc" not in admit.fill(asked, models[conftest.MODEL]).SerializeToString()


def test_defaults_and_seed_are_filled_in(models: dict[str, catalog.ModelEntry]) -> None:
    asked = conftest.request(**image(height=80, adapters=[adapter(), adapter(ids.new("lora"), scale=0.0)]))
    filled = admit.fill(asked, models[conftest.MODEL])
    assert (filled.image.width, filled.image.height, filled.image.steps, filled.image.num_images) == (64, 80, 10, 1)
    assert filled.image.guidance_scale == 3.0
    assert filled.priority == inputs_pb2.PRIORITY_STANDARD
    assert filled.image.HasField("seed")
    assert [each.scale for each in filled.image.adapters] == [1.0, 0.0]
    assert not asked.image.HasField("seed"), "the request itself is left as it was"
    seeds = {admit.fill(asked, models[conftest.MODEL]).image.seed for _ in range(8)}
    assert len(seeds) > 1, "each generation draws its own"
    zero = admit.fill(conftest.request(**image(seed=0)), models[conftest.MODEL])
    assert zero.image.seed == 0


def test_the_digest_is_of_the_parameters_alone() -> None:
    tags = {"b": "2", "a": "1"}
    one = conftest.request(idempotency_key="one", tags=tags)
    two = conftest.request(idempotency_key="two", tags=dict(reversed(tags.items())))
    assert admit.params_sha256(one) == admit.params_sha256(two)
    assert one.idempotency_key == "one"
    for other in (image(seed=1), image(steps=11), {"priority": 1}, {"tags": {}}, {"deadline": duration(1)}):
        assert admit.params_sha256(conftest.request(**other)) != admit.params_sha256(one)


def test_the_deadline_is_in_microseconds() -> None:
    assert admit.deadline_us(conftest.request()) is None
    assert admit.deadline_us(conftest.request(deadline=duration(2, 500_000_000))) == 2_500_000


MEDIA_MODELS = {entry.name: entry for entry in (media_entries.video(), media_entries.audio())}


@pytest.mark.parametrize(
    ("field", "model", "fields"),
    [
        ("video", "test-video", {}),
        ("image", "test-video", {"image": {"prompt": "x"}}),
        ("video.prompt", "test-video", {"video": {}}),
        ("video.num_frames", "test-video", {"video": {"prompt": "x", "num_frames": 8}}),
        ("video.num_frames", "test-video", {"video": {"prompt": "x", "num_frames": 85}}),
        ("video.frames_per_second", "test-video", {"video": {"prompt": "x", "frames_per_second": -1}}),
        ("video.width", "test-video", {"video": {"prompt": "x", "width": 128, "height": 128, "num_frames": 45}}),
        ("video.seed", "test-video", {"video": {"prompt": "x", "seed": -1}}),
        ("video.adapters[0].adapter_id", "test-video", {"video": {"prompt": "x", "adapters": [{"adapter_id": ""}]}}),
        ("video.extras.a", "test-video", {"video": {"prompt": "x", "extras": {"a": 1}}}),
        ("audio", "test-audio", {}),
        ("audio.duration_us", "test-audio", {"audio": {"prompt": "x", "duration_us": 999_999}}),
        ("audio.guidance_scale", "test-audio", {"audio": {"prompt": "x", "guidance_scale": 0.0}}),
        ("audio.steps", "test-audio", {"audio": {"prompt": "x", "steps": 101}}),
    ],
)
def test_bad_fields_of_videos_and_sounds_are_named(field: str, model: str, fields: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidArgument) as refusal:
        admit.check(media_entries.request(model, **fields), MEDIA_MODELS)
    assert [violation.field for violation in refusal.value.violations] == [field]


def test_videos_and_sounds_get_their_defaults() -> None:
    asked = media_entries.request("test-video", video={"prompt": "x", "num_frames": 13})
    video = admit.fill(asked, admit.check(asked, MEDIA_MODELS)).video
    assert (video.width, video.height, video.num_frames, video.frames_per_second, video.steps) == (64, 64, 13, 8, 10)
    assert video.HasField("seed")
    asked = media_entries.request("test-audio", audio={"prompt": "x"})
    filled = admit.fill(asked, admit.check(asked, MEDIA_MODELS))
    assert (filled.audio.duration_us, filled.audio.steps, filled.audio.guidance_scale) == (10_000_000, 10, 3.0)
    assert filled.WhichOneof("input") == "audio"


def test_offered_samplers_and_tiers_are_taken_and_lossless_is_the_default(catalog_dir: Path) -> None:
    entry = catalog.load(catalog_dir)[conftest.MODEL]
    for fields in ({"sampler": "unipc"}, {"quality": media_pb2.QUALITY_TIER_DRAFT}):
        request = media_entries.request(conftest.MODEL, **image(**fields))
        assert admit.check(request, {conftest.MODEL: entry}) is entry
    filled = admit.fill(media_entries.request(conftest.MODEL, **image()), entry).image
    assert (filled.sampler, filled.quality) == ("", media_pb2.QUALITY_TIER_LOSSLESS)
    none = dataclasses.replace(entry, samplers=())
    with pytest.raises(errors.InvalidArgument) as refusal:
        admit.check(media_entries.request(conftest.MODEL, **image(sampler="unipc")), {conftest.MODEL: none})
    assert "is not supported" in str(refusal.value)
