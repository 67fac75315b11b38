from typing import Any

import diffusers
import numpy as np
import pytest

from darkroom.model_runner.engine import errors, samplers
from tests.model_runner.engine.samplers import parity

STEPS = [1, 2, 3, 8]
SCHEDULER = diffusers.UniPCMultistepScheduler
WAN = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"solver_type": "bh1", "timestep_spacing": "trailing", "final_sigmas_type": "sigma_min"},
        {"disable_corrector": [0], "timestep_spacing": "linspace"},
        {"use_karras_sigmas": True},
        {"lower_order_final": False, "final_sigmas_type": "sigma_min"},
        {"solver_order": 1},
        {"solver_order": 3},
    ],
)
def test_stable_diffusion(options: dict[str, Any], prediction_type: str, steps: int) -> None:
    options = {**parity.STABLE_DIFFUSION, **options, "prediction_type": prediction_type}
    parity.check("unipc", SCHEDULER(**options), steps)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(
    "options", [{}, {"solver_order": 3}, {"use_dynamic_shifting": True, "shift_terminal": 0.02}, {"flow_shift": 1.0}]
)
def test_wan(options: dict[str, Any], steps: int) -> None:
    if steps == 1 and "shift_terminal" in options:  # diffusers divides by zero where one level is stretched
        with pytest.raises(errors.BadRequest, match="sampler: unipc cannot take 1 steps"):
            samplers.plan("unipc", steps, config=SCHEDULER(**WAN | options).config, mu=0.8)
        return
    parity.check("unipc", SCHEDULER(**WAN | options), steps, mu=0.8 if "use_dynamic_shifting" in options else None)


def test_a_pipeline_s_own_levels() -> None:
    parity.check("unipc", SCHEDULER(**WAN), 5, sigmas=np.linspace(1.0, 1 / 5, 5))


@pytest.mark.parametrize("first", [1, 4, 7])
@pytest.mark.parametrize("options", [parity.STABLE_DIFFUSION, WAN, parity.STABLE_DIFFUSION | {"solver_order": 3}])
def test_a_picture_enters_with_low_order(options: dict[str, Any], first: int) -> None:
    parity.check("unipc", SCHEDULER(**options), 8, first=first)


def test_a_flow_model_of_another_scheduler_keeps_its_shift() -> None:
    ours = samplers.plan("unipc", 4, config={"shift": 3.0, "shift_terminal": 0.02})
    theirs = SCHEDULER(**WAN, shift_terminal=0.02)
    assert ours.timesteps == samplers.plan("unipc", 4, config=theirs.config).timesteps


@pytest.mark.parametrize("option", [{"predict_x0": False}, {"thresholding": True}, {"solver_p": "other"}])
def test_what_does_not_fit_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(errors.BadRequest, match="sampler: unipc"):
        samplers.plan("unipc", 4, config=parity.STABLE_DIFFUSION | option)


def test_more_steps_than_noise_levels_are_refused() -> None:
    with pytest.raises(errors.BadRequest, match="sampler: unipc cannot take 1500 steps"):
        samplers.plan("unipc", 1500, config={})
