"""The catalogue is read strictly: every fault names its file and key."""

import copy

import pytest
import yaml

from darkroom import catalog, pricing

GOOD = {
    "name": "tiny",
    "kind": "image",
    "family": "flux",
    "description": "A tiny model.",
    "path": "tiny-weights",
    "revision": "sha256:" + "0" * 64,
    "license": "Apache-2.0",
    "guidance": "true_cfg",
    "max_sequence_length": 32,
    "memory_bytes": 64_000_000,
    "defaults": {"width": 64, "height": 64, "steps": 28, "guidance_scale": 3, "num_images": 1},
    "limits": {
        "width": {"min": 64, "max": 128, "multiple_of": 16},
        "height": {"min": 64, "max": 128, "multiple_of": 16},
        "steps": {"min": 1, "max": 100},
        "guidance_scale": {"min": 1.0, "max": 20.0},
        "num_images": {"min": 1, "max": 4},
        "prompt_bytes_max": 2000,
        "adapters_max": 4,
        "pixels_max": 16384,
    },
    "price": {"currency": "USD", "nanos_per_image": 100_000},
    "step_cost_us_guess": 20_000,
    "load_s_guess": 2.0,
}


def _write(directory, entry, name="tiny"):
    (directory / f"{name}.yaml").write_text(yaml.safe_dump(entry))


def _changed(path, value):
    entry = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    inner = entry
    for parent in parents:
        inner = inner[parent]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return entry


def test_a_good_entry(tmp_path):
    _write(tmp_path, GOOD)
    (entry,) = catalog.load(tmp_path).values()
    assert entry.directory == tmp_path / "tiny-weights"
    assert entry.limits.width == catalog.IntRange(min=64, max=128, multiple_of=16)
    assert entry.defaults.guidance_scale == 3.0
    assert entry.price == pricing.Rates(nanos_per_image=100_000)
    assert (entry.extras_schema, entry.charge_cancelled) == ({}, "none")


def test_entries_come_by_name(tmp_path):
    for name in ("b", "a"):
        _write(tmp_path, {**GOOD, "name": name}, name)
    assert list(catalog.load(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("colour", "red", "colour is not a key"),
        ("directory", "/etc", "directory is not a key"),
        ("limits.width.step", 1, "limits.width.step is not a key"),
        ("license", None, "license is missing"),
        ("limits.steps.max", None, "limits.steps.max is missing"),
        ("kind", "smell", "kind must be one of image, video, audio"),
        ("memory_bytes", "much", "memory_bytes must be of type int"),
        ("memory_bytes", -1, "memory_bytes must be 0 or more"),
        ("memory_bytes", True, "memory_bytes must be of type int"),
        ("load_s_guess", float("nan"), "load_s_guess must be 0 or more"),
        ("load_s_guess", "x", "load_s_guess must be a number"),
        ("limits", [], "limits must be a mapping"),
        ("extras_schema", [], "extras_schema must be a mapping"),
        ("extras_schema", {"type": "nonsense"}, "nonsense"),
        ("price.nanos_per_image", -5, "price.nanos_per_image must be 0 or more"),
        ("name", "other", "name must be the file's name"),
        ("name", "../tiny", "name must match"),
        ("revision", "main", "revision must be sha256"),
        ("limits.steps", {"min": 5, "max": 4}, "limits.steps: min must not be above max"),
        ("defaults.steps", 101, "defaults.steps is outside of limits.steps"),
        ("defaults.width", 65, "defaults.width is outside of limits.width"),
        ("limits.pixels_max", 4095, "pixels_max"),
        ("limits.num_images", None, "limits.num_images is missing"),
        ("limits.duration_us", {"min": 1, "max": 2}, "limits.duration_us is of no use to image"),
        ("samplers", "flow_euler", "samplers must be a list"),
        ("samplers", [1], r"samplers\[0\] must be of type str"),
        ("qualities", ["BEST"], r"qualities\[0\] must be one of LOSSLESS, HIGH, DRAFT"),
        ("source_image", "maybe", "source_image must be one of none, optional, required"),
    ],
)
def test_a_fault_names_file_and_key(tmp_path, path, value, message):
    _write(tmp_path, _changed(path, value))
    with pytest.raises(catalog.CatalogError, match=message) as caught:
        catalog.load(tmp_path)
    assert str(caught.value).startswith("tiny.yaml: ")


@pytest.mark.parametrize("text", ["", "- a", "a: [", "!!python/object/apply:os.system ['true']"])
def test_a_file_that_is_no_mapping(tmp_path, text):
    (tmp_path / "tiny.yaml").write_text(text)
    with pytest.raises(catalog.CatalogError, match=r"tiny\.yaml"):
        catalog.load(tmp_path)


VIDEO = {
    **GOOD,
    "kind": "video",
    "source_image": "optional",
    "defaults": {"width": 64, "height": 64, "steps": 4, "guidance_scale": 3, "num_frames": 5, "frames_per_second": 8},
    "limits": {
        **{name: GOOD["limits"][name] for name in ("width", "height", "steps", "guidance_scale")},
        "num_frames": {"min": 5, "max": 81, "multiple_of": 4},
        "frames_per_second": {"min": 1, "max": 60},
        "prompt_bytes_max": 2000,
        "adapters_max": 0,
        "pixels_max": 64 * 64 * 9,
    },
}


def test_a_video_has_frames_counted_from_the_least(tmp_path):
    _write(tmp_path, VIDEO)
    (entry,) = catalog.load(tmp_path).values()
    assert (entry.defaults.num_frames, entry.source_image, entry.mask_image) == (5, "optional", "none")
    for frames in (8, 13):  # not four on from five; more pixels than pixels_max
        _write(tmp_path, {**VIDEO, "defaults": {**VIDEO["defaults"], "num_frames": frames}})
        with pytest.raises(catalog.CatalogError):
            catalog.load(tmp_path)


def test_a_sound_has_a_length_and_no_size(tmp_path):
    numbers = {"steps": {"min": 1, "max": 9}, "guidance_scale": {"min": 1, "max": 9}}
    limits = {**numbers, "duration_us": {"min": 1, "max": 47_000_000}, "prompt_bytes_max": 2000, "adapters_max": 0}
    defaults = {"steps": 4, "guidance_scale": 3, "duration_us": 10_000_000}
    _write(tmp_path, {**GOOD, "kind": "audio", "limits": limits, "defaults": defaults})
    (entry,) = catalog.load(tmp_path).values()
    assert entry.limits.duration_us.max == 47_000_000


def test_samplers_and_tiers_are_lists_and_lossless_is_offered_by_all(tmp_path):
    _write(tmp_path, GOOD)
    (entry,) = catalog.load(tmp_path).values()
    assert (entry.samplers, entry.qualities) == ((), ("LOSSLESS",))
    _write(tmp_path, {**GOOD, "samplers": ["ddim", "euler"], "qualities": ["LOSSLESS", "DRAFT"]})
    (entry,) = catalog.load(tmp_path).values()
    assert (entry.samplers, entry.qualities) == (("ddim", "euler"), ("LOSSLESS", "DRAFT"))
