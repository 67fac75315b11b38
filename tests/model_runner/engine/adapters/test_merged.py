"""Merged weights: exact enough, never instead of the pristine ones, and only where they pay."""

import pytest
import torch
from torch import Tensor, nn

from darkroom.model_runner.engine.adapters import merged
from darkroom.model_runner.engine.adapters.low_rank import Layer, Pair


def pair(layer: Layer, rank: int = 4, size: float = 1.0) -> Pair:
    torch.manual_seed(1)
    down = torch.randn(rank, *layer.weight.shape[1:]) * size
    return Pair(down.to(layer.weight.dtype), torch.randn(len(layer.weight), rank).to(layer.weight.dtype))


def much(layer: Layer) -> Tensor:
    """Return an input for which merging pays."""
    places = (4096,) if isinstance(layer, nn.Linear) else (1,)
    shape = (layer.weight.shape[1],) if isinstance(layer, nn.Linear) else (layer.weight.shape[1], 64, 64)
    return torch.zeros(*places, *shape, dtype=layer.weight.dtype)


@torch.inference_mode()
@pytest.mark.parametrize("layer", [nn.Linear(16, 24), nn.Conv2d(16, 24, 3)])
def test_the_copy_holds_the_change_and_the_original_does_not(layer: Layer) -> None:
    one, before = pair(layer), layer.weight.clone()
    source = merged.Merged(torch.device("cpu"))
    weight = source.weight("layer", layer, one, much(layer))
    assert weight is not None
    torch.testing.assert_close(weight.flatten(1), (before.flatten(1) + one.up @ one.down.flatten(1)))
    assert torch.equal(layer.weight, before)
    assert source.weight("layer", layer, one, much(layer)) is weight
    assert source.size_bytes == layer.weight.nbytes


@torch.inference_mode()
def test_half_precision_is_rounded_once_and_refuses_to_lose_a_change() -> None:
    layer = nn.Linear(64, 64).bfloat16()
    source = merged.Merged(torch.device("cpu"))
    large, small = pair(layer), pair(layer, size=1e-4)
    weight = source.weight("large", layer, large, much(layer))
    wide = layer.weight.float() + large.up.float() @ large.down.float()
    assert weight is not None
    assert torch.equal(weight, wide.bfloat16())
    assert source.weight("small", layer, small, much(layer)) is None
    assert source.size_bytes == layer.weight.nbytes
    exact = nn.Linear(64, 64)
    assert source.weight("exact", exact, pair(exact, size=1e-4), much(exact)) is not None


@torch.inference_mode()
def test_layers_for_which_there_is_no_room_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Linear(16, 16)
    monkeypatch.setattr(merged, "_room_bytes", lambda _: 1500)
    source = merged.Merged(torch.device("cpu"))
    assert source.weight("first", layer, pair(layer), much(layer)) is not None
    assert source.weight("second", layer, pair(layer), much(layer)) is None
    assert source.size_bytes == 1024


def test_merging_pays_for_wide_inputs_and_not_for_wide_layers() -> None:
    small, large = nn.Linear(64, 64), nn.Linear(2048, 2048)
    assert merged.pays(small, pair(small), torch.zeros(1, 64, 64))
    assert not merged.pays(large, pair(large), torch.zeros(1, 4, 2048))
    assert merged.pays(large, pair(large), torch.zeros(8, 1024, 2048))


def test_a_quantized_weight_is_not_merged() -> None:
    class Quantized(Tensor):
        pass

    layer = nn.Linear(64, 64)
    layer.weight = nn.Parameter(layer.weight.data.as_subclass(Quantized), requires_grad=False)
    assert not merged.pays(layer, pair(nn.Linear(64, 64)), torch.zeros(1, 4096, 64))
