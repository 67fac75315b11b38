import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from darkroom.model_runner.engine import embeddings, samplers
from darkroom.model_runner.engine.families import flux
from darkroom.model_runner.engine.job import AdapterUse
from darkroom.model_runner.engine.state import BatchKey, Predictions, State


@torch.inference_mode()
def test_a_state_holds_nothing_but_tensors_and_numbers(specs: Any, make_job: Any) -> None:
    cache = embeddings.Cache(bytes_max=0)
    model = flux.load(
        specs["true_cfg"], device=torch.device("cpu"), dtype=torch.float32, adapters_resident_max=1, embeddings=cache
    )
    ((state,),) = model.prepare([make_job("1", steps=3)])
    plain = (int, float, str, bool, torch.Tensor, AdapterUse, samplers.Plan, type(None))
    for field in dataclasses.fields(State):
        value = getattr(state, field.name)
        parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else (value,)
        assert all(isinstance(part, plain) for part in parts if not isinstance(part, tuple)), field.name
    assert state.steps_total == 3
    assert (state.history, state.cache, state.tier) == ((), {}, "LOSSLESS")


def test_a_size_has_a_name() -> None:
    sizes = [(64, 64), (832, 480, 81), ()]
    assert [BatchKey("m", "text", size, 1, False).shape for size in sizes] == ["64x64", "832x480x81", "window"]


def test_negative_prompts_are_stacked_below_prompts() -> None:
    predicted = torch.arange(8.0).view(4, 2)
    alone = Predictions.of(predicted, rows=4)
    assert torch.equal(alone.positive, predicted)
    assert alone.negative is None
    guided = Predictions.of(predicted, rows=2)
    assert torch.equal(guided.positive, predicted[:2])
    assert guided.negative is not None
    assert torch.equal(guided.negative, predicted[2:])
