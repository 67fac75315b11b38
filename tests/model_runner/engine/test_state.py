import dataclasses
from typing import Any

import torch

from darkroom.model_runner.engine.families import flux
from darkroom.model_runner.engine.job import AdapterUse
from darkroom.model_runner.engine.state import State


@torch.inference_mode()
def test_a_state_holds_nothing_but_tensors_and_numbers(specs: Any, make_job: Any) -> None:
    model = flux.load(specs["true_cfg"], device=torch.device("cpu"), dtype=torch.float32, adapters_resident_max=1)
    (state,) = model.prepare(make_job("1", steps=3))
    plain = (int, float, str, bool, torch.Tensor, AdapterUse)
    for field in dataclasses.fields(State):
        value = getattr(state, field.name)
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else (value,)
        assert all(isinstance(part, plain) for part in parts), field.name
    assert state.steps_total == 3
    assert state.sigmas[0] == 1.0
    assert state.sigmas[-1] == 0.0
