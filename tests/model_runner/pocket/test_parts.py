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


def test_an_optimizer_takes_the_gradients_of_a_convolution_in_channels_last_order() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 4, 3)
    plain = torch.nn.Conv2d(3, 4, 3)
    plain.load_state_dict(layer.state_dict())
    layer.to(memory_format=torch.channels_last)
    inputs = torch.randn(4, 3, 5, 5)
    for convolution, fused in ((layer, True), (plain, False)):
        weights = list(convolution.parameters())
        parts.Crew().differentiate(lambda asked, taught=convolution: taught(asked).square().mean(), (inputs,), weights)
        torch.optim.AdamW(weights, lr=0.1, fused=fused).step()
    assert torch.allclose(layer.weight, plain.weight, atol=1e-6)
