from typing import Any

import diffusers
import numpy as np
import pytest

from darkroom.model_runner.engine import errors, samplers
from tests.model_runner.engine.samplers import parity

FLOW = diffusers.FlowMatchEulerDiscreteScheduler
STEPS = [1, 2, 7]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shift": 3.0},
        {"use_dynamic_shifting": True},
        {"use_dynamic_shifting": True, "time_shift_type": "linear", "shift_terminal": 0.02},
        {"use_karras_sigmas": True},
        {"use_exponential_sigmas": True, "shift": 2.0},
        {"stochastic_sampling": True},
        {"invert_sigmas": True},
    ],
)
def test_flow_euler(options: dict[str, Any], steps: int) -> None:
    if steps == 1 and "shift_terminal" in options:  # diffusers divides by zero where one level is stretched
        with pytest.raises(errors.BadRequest, match="sampler: flow_euler cannot take 1 steps"):
            samplers.plan("flow_euler", steps, config=FLOW(**options).config, mu=0.8)
        return
    plan = parity.check("flow_euler", FLOW(**options), steps, mu=0.8)
    assert plan.draws_noise == (steps > 1 and "stochastic_sampling" in options)


def test_flow_euler_from_a_picture_and_with_a_pipeline_s_own_levels() -> None:
    sigmas = np.linspace(1.0, 1 / 6, 6)
    parity.check("flow_euler", FLOW(shift=3.0), 6, first=2, sigmas=sigmas)
    parity.check("flow_euler", FLOW(use_dynamic_shifting=True), 6, mu=1.1, sigmas=sigmas)


def test_flow_euler_reads_the_shift_of_a_model_saved_for_unipc() -> None:
    saved = diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=5.0, prediction_type="flow_prediction")
    ours = samplers.plan("flow_euler", 4, config=saved.config)
    assert ours.timesteps == samplers.plan("flow_euler", 4, config=FLOW(shift=5.0).config).timesteps


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"timestep_spacing": "trailing"},
        {"timestep_spacing": "linspace", "interpolation_type": "log_linear"},
        {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"},
        {"use_exponential_sigmas": True, "beta_schedule": "linear"},
    ],
)
def test_euler(options: dict[str, Any], prediction_type: str, steps: int) -> None:
    options = {**parity.STABLE_DIFFUSION, **options, "prediction_type": prediction_type}
    parity.check("euler", diffusers.EulerDiscreteScheduler(**options), steps)


def test_euler_of_models_with_no_signal_left_or_continuous_time() -> None:
    changes = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    parity.check("euler", diffusers.EulerDiscreteScheduler(**parity.STABLE_DIFFUSION | changes), 5)
    changes = {"timestep_type": "continuous", "use_karras_sigmas": True, "prediction_type": "v_prediction"}
    parity.check("euler", diffusers.EulerDiscreteScheduler(**parity.STABLE_DIFFUSION | changes), 5)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_euler_ancestral(spacing: str, prediction_type: str, steps: int) -> None:
    options = {**parity.STABLE_DIFFUSION, "timestep_spacing": spacing, "prediction_type": prediction_type}
    plan = parity.check("euler_ancestral", diffusers.EulerAncestralDiscreteScheduler(**options), steps)
    assert plan.draws_noise == (steps > 1)


@pytest.mark.parametrize("first", [1, 4])
def test_a_picture_may_enter(first: int) -> None:
    parity.check("euler", diffusers.EulerDiscreteScheduler(**parity.STABLE_DIFFUSION), 5, first=first)
    parity.check(
        "euler_ancestral", diffusers.EulerAncestralDiscreteScheduler(**parity.STABLE_DIFFUSION), 5, first=first
    )


@pytest.mark.parametrize("name", ["euler", "euler_ancestral"])
def test_flow_models_are_not_for_euler_in_sigma(name: str) -> None:
    with pytest.raises(errors.BadRequest, match=f"sampler: {name} is not for flow"):
        samplers.plan(name, 4, config=FLOW().config)


def test_other_models_are_not_for_flow_euler() -> None:
    with pytest.raises(errors.BadRequest, match="sampler: flow_euler is for flow"):
        samplers.plan("flow_euler", 4, config=parity.STABLE_DIFFUSION)
