"""Batched low-rank products equal the dense change, row by row."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from darkroom.model_runner.engine.adapters import low_rank
from darkroom.model_runner.engine.adapters.low_rank import Layer, Pair, Places

CASES: Sequence[tuple[Layer, tuple[int, ...]]] = [
    (nn.Linear(6, 8), (6,)),
    (nn.Linear(6, 8), (5, 6)),
    (nn.Linear(6, 8), (2, 5, 6)),
    (nn.Conv2d(6, 8, 3, stride=2, padding=1), (6, 7, 5)),
    (nn.Conv2d(6, 8, 1), (6, 4, 4)),
    (nn.Conv2d(6, 8, 3, dilation=2), (6, 7, 7)),
]


def pair(layer: Layer, rank: int) -> Pair:
    return Pair(torch.randn(rank, *layer.weight.shape[1:]), torch.randn(len(layer.weight), rank))


def dense(layer: Layer, x: Tensor, one: Pair) -> Tensor:
    weight = (one.up @ one.down.flatten(1)).view_as(layer.weight)
    if isinstance(layer, nn.Linear):
        return functional.linear(x, weight)
    return functional.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation)


@torch.inference_mode()
@pytest.mark.parametrize(("layer", "shape"), CASES)
def test_each_row_its_own_pair(layer: Layer, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    alike = pair(layer, 3)
    pairs = [pair(layer, 2), None, pair(layer, 2), alike, alike]
    x = torch.randn(5, *shape)
    output = layer(x)
    ours = output.clone()
    low_rank.add(layer, x, ours, pairs, Places())
    for row, one in enumerate(pairs):
        change = 0.0 if one is None else dense(layer, x[row : row + 1], one)[0]
        torch.testing.assert_close(ours[row], output[row] + change, atol=1e-4, rtol=1e-5)
    assert torch.equal(ours[1], output[1])


@torch.inference_mode()
@pytest.mark.parametrize(("layer", "shape"), CASES)
def test_one_pair_for_all_rows(layer: Layer, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    one, x = pair(layer, 3), torch.randn(4, *shape)
    torch.testing.assert_close(low_rank.shared(layer, x, one), dense(layer, x, one), atol=1e-4, rtol=1e-5)
    output = layer(x)
    low_rank.add(layer, x, output, [one] * 4, Places())
    torch.testing.assert_close(output, layer(x) + dense(layer, x, one), atol=1e-4, rtol=1e-5)


@torch.inference_mode()
def test_equal_ranks_are_multiplied_together(monkeypatch: pytest.MonkeyPatch) -> None:
    products: list[tuple[int, ...]] = []
    multiply = torch.bmm

    def seen(left: Tensor, right: Tensor) -> Tensor:
        products.append(tuple(left.shape))
        return multiply(left, right)

    monkeypatch.setattr(torch, "bmm", seen)
    layer, x = nn.Linear(6, 8), torch.randn(8, 5, 6)
    low_rank.add(layer, x, layer(x), [pair(layer, 2) for _ in range(8)], Places())
    assert products == [(8, 5, 6), (8, 5, 2)]


@torch.inference_mode()
def test_the_layers_of_a_forward_send_the_places_of_rows_to_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sent, tensor = list[object](), torch.tensor

    def seen(data: object, **options: object) -> Tensor:
        sent.append(data)
        return tensor(data, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(torch, "tensor", seen)
    layers, x, places = [nn.Linear(6, 6) for _ in range(3)], torch.randn(4, 6), Places()
    for layer in layers:
        low_rank.add(layer, x, layer(x), [pair(layer, 2), None, pair(layer, 2), pair(layer, 3)], places)
        low_rank.add(layer, x, layer(x), [pair(layer, 2) for _ in range(4)], places)
    assert sent == [[0, 2], [3]]


def test_joined_pairs_change_as_much_as_both() -> None:
    layer = nn.Linear(6, 8)
    one, other = pair(layer, 2), pair(layer, 3)
    both = low_rank.joined([(one, 0.5), (other, -2.0)])
    torch.testing.assert_close(both.up @ both.down, 0.5 * one.up @ one.down - 2.0 * other.up @ other.down)


def test_a_layer_that_does_not_see_the_rows_is_told() -> None:
    layer, x = nn.Linear(6, 8), torch.randn(1, 6)
    with pytest.raises(ValueError, match="1 rows of a batch of 2"):
        low_rank.add(layer, x, layer(x), [pair(layer, 2), None], Places())
