import numpy as np
import pytest

from darkroom.model_runner.engine import samplers

UNIT = {"shift": 1.0}


def test_it_says_what_a_state_must_hold() -> None:
    plan = samplers.plan("flow_euler", 5, config=UNIT)
    assert (plan.steps, plan.history, plan.draws_noise) == (5, 0, False)
    plan = samplers.plan("unipc", 5, config=UNIT)
    assert (plan.steps, plan.history, plan.draws_noise) == (5, 3, False)
    plan = samplers.plan("dpmpp_2m_sde", 5, config={})
    assert (plan.steps, plan.history, plan.draws_noise) == (5, 1, True)


def test_the_rest_of_a_plan_is_its_tables_from_there_on() -> None:
    plan = samplers.plan("flow_euler", 5, config=UNIT)
    later = plan.after(2)
    assert later.timesteps == plan.timesteps[2:]
    assert later.input_scales == plan.input_scales[2:]
    assert later.matrices.tolist() == plan.matrices[2:].tolist()
    assert later.noising.tolist() == plan.noising[2:].tolist()
    assert later.sampler == plan.sampler
    assert later.noise_scale == plan.noise_scale


@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc"])
def test_a_multi_step_sampler_starts_anew_where_a_picture_enters(name: str) -> None:
    plan = samplers.plan(name, 8, config={})
    later = plan.after(3)
    assert not later.matrices[0, 0, 2:].any(), "the first step uses a history that is not there"
    assert plan.matrices[3, 0, 2:].any()
    np.testing.assert_array_equal(later.matrices[len(plan.starts) :], plan.matrices[3 + len(plan.starts) :])
    np.testing.assert_array_equal(plan.after(1).after(2).matrices, later.matrices)
    np.testing.assert_array_equal(plan.after(0).matrices, plan.matrices)
    assert plan.after(7).steps == 1
