import torch
from torch import nn

from darkroom.model_runner.engine import twins


def test_a_twin_has_the_same_weights_and_hooks_of_its_own() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    one = twins.twin(module)
    assert all(theirs is ours for theirs, ours in zip(one.parameters(), module.parameters(), strict=True))
    assert all(theirs is ours for theirs, ours in zip(one.buffers(), module.buffers(), strict=True))
    one[0].register_forward_hook(lambda *_: torch.zeros(1, 2))
    one[0].weight = nn.Parameter(torch.ones(2, 2))
    given = torch.randn(1, 2)
    assert not torch.equal(one(given), module(given))
    assert not torch.equal(one[0].weight, module[0].weight)
