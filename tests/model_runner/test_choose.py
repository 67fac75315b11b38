"""Which device, type and models a runner takes, and which settings are refused by name."""

from pathlib import Path

import pytest

from darkroom import settings
from darkroom.model_runner import choose
from darkroom.model_runner.config import Config
from darkroom.model_runner.engine.job import ModelSpec
from tests.model_runner import world as worlds


def config(**changes: object) -> Config:
    values: dict[str, object] = {
        "service_secret": "s" * 32,
        "scheduler_address": "a:1",
        "lora_store_address": "b:1",
        "media_store_address": "c:1",
    }
    return Config(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stated", "cuda_devices", "computing", "sampled"),
    [
        ("auto", 0, "cpu", "cpu"),
        ("auto", 2, "cuda:0", "nvml:0"),
        ("cpu", 2, "cpu", "cpu"),
        ("cuda:1", 2, "cuda:1", "nvml:1"),
        ("nvml:1", 2, "cuda:1", "nvml:1"),
        ("nvml:1", 0, "cpu", "nvml:1"),
    ],
)
def test_a_device_is_computed_on_and_watched(stated: str, cuda_devices: int, computing: str, sampled: str) -> None:
    assert choose.device(stated, cuda_devices=cuda_devices) == (computing, sampled)


@pytest.mark.parametrize(
    ("stated", "computing", "sampled"),
    [("auto", "cuda:0", "nvml:5"), ("cuda:2", "cuda:1", "nvml:2"), ("nvml:5", "cuda:0", "nvml:5")],
)
def test_what_is_watched_is_what_computes_where_cuda_shows_some_devices_only(
    stated: str, computing: str, sampled: str
) -> None:
    assert choose.device(stated, cuda_devices=2, visible="5,2") == (computing, sampled)
    for hidden in ("cuda:0", "nvml:0"):
        with pytest.raises(settings.SettingsError, match=r"torch sees \[5, 2\] of NVML's devices"):
            choose.device(hidden, cuda_devices=2, visible="5,2")


@pytest.mark.parametrize("stated", ["gpu", "cuda", "cuda:2", "nvml:2", "nvml:-1", "cuda:1x"])
def test_a_device_that_is_not_there_is_refused(stated: str) -> None:
    with pytest.raises(settings.SettingsError, match="DARKROOM_DEVICE"):
        choose.device(stated, cuda_devices=2)


def test_weights_are_bfloat16_on_cuda_unless_said_otherwise() -> None:
    assert choose.dtype("", "cuda:0") == "bfloat16"
    assert choose.dtype("", "cpu") == "float32"
    assert choose.dtype("float16", "cuda:0") == "float16"
    with pytest.raises(settings.SettingsError, match="DARKROOM_DTYPE"):
        choose.dtype("int8", "cuda:0")


def test_memory_leaves_a_fifth_for_activations() -> None:
    assert choose.memory_bytes_max(0, device_bytes=100) == 80
    assert choose.memory_bytes_max(7, device_bytes=0) == 7
    with pytest.raises(settings.SettingsError, match="DARKROOM_MEMORY_BYTES_MAX"):
        choose.memory_bytes_max(0, device_bytes=0)


def test_host_memory_is_for_models_of_an_accelerator() -> None:
    assert choose.host_cache_bytes_max(7, "cuda:0") == 7
    assert choose.host_cache_bytes_max(7, "cpu") == 0


def test_models_are_those_whose_family_and_files_are_here(tmp_path: Path, specs: dict[str, ModelSpec]) -> None:
    worlds.write_catalogue(tmp_path, specs["true_cfg"], name="a")
    worlds.write_catalogue(tmp_path, specs["true_cfg"], name="b")
    worlds.write_catalogue(tmp_path, specs["true_cfg"], name="c", path=str(tmp_path / "nowhere"))
    folder = str(tmp_path)
    assert list(choose.models(config(catalog_dir=folder), families={"flux"})) == ["a", "b"]
    assert list(choose.models(config(catalog_dir=folder, models=("b",)), families={"flux"})) == ["b"]
    for changes, name in (
        ({"models": ("c",)}, "MODELS"),
        ({"models": ("a",), "preload": ("b",)}, "PRELOAD"),
        ({}, "CATALOG_DIR"),
    ):
        known = {"flux"} if changes else set[str]()
        with pytest.raises(settings.SettingsError, match=f"DARKROOM_{name}"):
            choose.models(config(catalog_dir=folder, **changes), families=known)


def test_a_runner_behind_a_wildcard_must_say_where_it_is() -> None:
    tls = {"tls_cert_path": "a", "tls_key_path": "b", "tls_ca_path": "c"}
    with pytest.raises(settings.SettingsError, match="DARKROOM_ADVERTISE_ADDRESS"):
        config(listen_address="0.0.0.0:50051", **tls)
    assert config(listen_address="0.0.0.0:50051", advertise_address="10.0.0.1:50051", **tls).models == ()
