"""What a GPU would meet, as far as it can be told without one: the meta device tells devices and dtypes apart."""

import importlib
import pathlib
from types import ModuleType

import pytest
import torch
from torch import nn

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"
BILLIONS = {  # of parameters, of the published weights
    "SD1.5 512x512": {"unet": 0.86, "text_encoder": 0.12, "vae": 0.08},
    "SDXL 1024x1024": {"unet": 2.57, "text_encoder": 0.12, "text_encoder_2": 0.69, "vae": 0.08},
    "FLUX.1-dev 1024x1024": {"transformer": 11.90, "text_encoder": 0.12, "text_encoder_2": 4.76, "vae": 0.08},
    "Wan 1.3B 832x480x81": {"transformer": 1.42, "text_encoder": 5.68, "vae": 0.13},
}


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("_random_models")


@pytest.mark.parametrize("name", BILLIONS)
def test_networks_are_of_the_published_size_on_the_device_and_schedulers_on_the_host(
    models: ModuleType, name: str
) -> None:
    with models.made_on(torch.device("meta"), torch.bfloat16):
        pipeline = models.WORKS[name].make(False)
    networks = {part: module for part, module in pipeline.components.items() if isinstance(module, nn.Module)}
    sizes = {
        part: round(sum(weight.numel() for weight in network.parameters()) / 1e9, 2)
        for part, network in networks.items()
    }
    assert sizes == BILLIONS[name]
    tensors = [tensor for network in networks.values() for tensor in (*network.parameters(), *network.buffers())]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    tables = [value for value in vars(pipeline.scheduler).values() if isinstance(value, torch.Tensor)]
    assert {table.device.type for table in tables} == {"cpu"}
    assert {table.is_floating_point() and table.dtype == torch.bfloat16 for table in tables} == {False}


def test_each_model_computes_in_the_dtypes_of_its_family(models: ModuleType) -> None:
    assert set(BILLIONS) == set(models.WORKS)
    with models.made_on(torch.device("meta"), torch.bfloat16):
        parts = {name: work.make(True) for name, work in models.WORKS.items()}
    assert {name: pipeline.vae.dtype for name, pipeline in parts.items()} == {
        name: torch.float32 if name.startswith("Wan") else torch.bfloat16 for name in parts
    }
    assert {next(pipeline.text_encoder.parameters()).dtype for pipeline in parts.values()} == {torch.bfloat16}
