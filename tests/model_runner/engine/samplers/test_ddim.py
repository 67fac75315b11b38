from typing import Any

import diffusers
import pytest

from darkroom.model_runner.engine import errors, samplers
from tests.model_runner.engine.samplers import parity

STEPS = [1, 2, 7]
BASE = parity.STABLE_DIFFUSION | {"clip_sample": False}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    "options",
    [
        {"set_alpha_to_one": False},
        {"timestep_spacing": "trailing"},
        {"timestep_spacing": "linspace", "beta_schedule": "squaredcos_cap_v2"},
    ],
)
def test_ddim(options: dict[str, Any], prediction_type: str, steps: int) -> None:
    parity.check("ddim", diffusers.DDIMScheduler(**BASE | options, prediction_type=prediction_type), steps)


def test_ddim_of_a_model_with_no_signal_left() -> None:
    changes = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    parity.check("ddim", diffusers.DDIMScheduler(**BASE | changes, prediction_type="v_prediction"), 5)
    with pytest.raises(errors.BadRequest, match="sampler: ddim cannot take 5 steps"):
        samplers.plan("ddim", 5, config=BASE | changes)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_lcm(prediction_type: str, steps: int) -> None:
    plan = parity.check("lcm", diffusers.LCMScheduler(prediction_type=prediction_type), steps)
    assert plan.draws_noise == (steps > 1)


@pytest.mark.parametrize("first", [1, 4])
def test_a_picture_may_enter(first: int) -> None:
    parity.check("ddim", diffusers.DDIMScheduler(**BASE), 5, first=first)
    parity.check("lcm", diffusers.LCMScheduler(), 5, first=first)


def test_lcm_has_no_more_steps_than_it_was_trained_for() -> None:
    with pytest.raises(errors.BadRequest, match="sampler: lcm cannot take 51 steps"):
        samplers.plan("lcm", 51, config=diffusers.LCMScheduler().config)


@pytest.mark.parametrize("option", ["clip_sample", "thresholding"])
@pytest.mark.parametrize("name", ["ddim", "lcm"])
def test_what_is_not_linear_is_refused(name: str, option: str) -> None:
    with pytest.raises(errors.BadRequest, match=f"sampler: {name} cannot"):
        samplers.plan(name, 4, config=BASE | {option: True})


@pytest.mark.parametrize("name", ["ddim", "lcm"])
def test_flow_models_are_refused(name: str) -> None:
    with pytest.raises(errors.BadRequest, match=f"sampler: {name} is not for flow"):
        samplers.plan(name, 4, config={"shift": 3.0})
