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
