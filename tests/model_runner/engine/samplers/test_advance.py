from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from darkroom.model_runner.engine import samplers
from darkroom.model_runner.engine.state import BatchKey, Predictions, State


def make_state(latents: torch.Tensor, plan: samplers.Plan, **changes: Any) -> State:
    values: dict[str, Any] = {
        "batch_key": BatchKey("m", "text", (8, 8), 4, True),
        "seed": 1,
        "step": 0,
        "guidance": 1.0,
        "conditioning": {},
        "adapters": (),
    }
    return State(latents=latents, plan=plan, **(values | changes))


def moving(*lengths: float) -> samplers.Plan:
    """Return a plan that adds the prediction times `lengths`."""
    matrices = np.array([[[1.0, length, 0.0]] for length in lengths])
    steps = len(lengths)
    return samplers.Plan(
        sampler="flow_euler",
        timesteps=(0.0,) * steps,
        input_scales=(1.0,) * steps,
        matrices=matrices,
        noise_scale=1.0,
        noising=np.zeros((steps, 2)),
    )


@pytest.mark.parametrize("options", [{}, {"shift": 3.0}, {"use_dynamic_shifting": True}, {"use_karras_sigmas": True}])
def test_euler_equals_diffusers_over_a_whole_schedule(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**options)
    scheduler.set_timesteps(6, mu=0.8)
    ours = make_state(torch.randn(5, 3), samplers.plan("flow_euler", 6, config=scheduler.config, mu=0.8))
    theirs = ours.latents[None]
    for timestep in scheduler.timesteps:
        velocity = torch.randn(1, 5, 3)
        theirs = scheduler.step(velocity, timestep, theirs, return_dict=False)[0]
        (ours,) = samplers.advance([ours], Predictions(velocity, None))
    assert ours.step == ours.steps_total == 6
    torch.testing.assert_close(ours.latents[None], theirs)


def test_every_row_has_its_own_step_and_guidance() -> None:
    one = make_state(torch.zeros(1), moving(-0.75, -0.25), guidance=2.0)
    other = make_state(torch.ones(1), moving(-0.25, -0.25, -0.5), step=2, guidance=3.0)
    moved = samplers.advance([one, other], Predictions(torch.tensor([[4.0], [2.0]]), torch.tensor([[1.0], [1.0]])))
    # 0 - 0.75 * (1 + 2 * 3) and 1 - 0.5 * (1 + 3 * 1)
    assert [state.latents.item() for state in moved] == [-5.25, -1.0]
    assert [state.step for state in moved] == [1, 3]
    assert (one.step, one.latents.item()) == (0, 0.0)
