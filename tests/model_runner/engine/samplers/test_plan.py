import diffusers
import numpy as np
import pytest

from darkroom.model_runner.engine import errors, samplers


def test_flow_euler_has_the_levels_of_diffusers() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(5)
    plan = samplers.plan("flow_euler", 5, config=scheduler.config)
    assert (plan.steps, plan.history, plan.draws_noise) == (5, 0, False)
    assert plan.timesteps == tuple(scheduler.timesteps.tolist())
    np.testing.assert_allclose(plan.matrices[:, 0, 1], np.diff(scheduler.sigmas.numpy()), atol=1e-7)
    np.testing.assert_allclose(plan.noising[:, 1], scheduler.sigmas[:-1].numpy(), atol=1e-7)


def test_a_picture_may_enter_later() -> None:
    plan = samplers.plan("flow_euler", 5, config={})
    later = plan.after(2)
    assert later.timesteps == plan.timesteps[2:]
    assert later.matrices.tolist() == plan.matrices[2:].tolist()
    assert later.noising.tolist() == plan.noising[2:].tolist()


def test_an_unknown_sampler_is_refused() -> None:
    with pytest.raises(errors.BadRequest, match="sampler"):
        samplers.plan("nothing", 5, config={})
