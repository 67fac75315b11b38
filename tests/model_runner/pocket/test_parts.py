"""Gradients from parts are the gradients of the whole."""

import torch

from darkroom.model_runner.pocket import parts


def test_parts_add_up_to_the_whole() -> None:
    torch.manual_seed(0)
    layer, inputs, answers = torch.nn.Linear(5, 3), torch.randn(8, 5), torch.randn(8, 3)

    def loss_of(asked: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
        return (layer(asked) - answer).square().mean()

    weights = list(layer.parameters())
    loss = parts.Crew().differentiate(loss_of, (inputs, answers), weights)
    whole = loss_of(inputs, answers)
    assert abs(loss - float(whole.detach())) < 1e-6
    for weight, gradient in zip(weights, torch.autograd.grad(whole, weights), strict=True):
        assert weight.grad is not None
        assert torch.allclose(weight.grad, gradient, atol=1e-6)
