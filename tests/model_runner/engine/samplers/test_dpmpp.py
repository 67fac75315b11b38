from typing import Any

import diffusers
import pytest

from darkroom.model_runner.engine import errors, samplers
from tests.model_runner.engine.samplers import parity

STEPS = [1, 2, 7]
SCHEDULER = diffusers.DPMSolverMultistepScheduler


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"solver_type": "heun", "timestep_spacing": "trailing"},
        {"timestep_spacing": "linspace", "final_sigmas_type": "sigma_min", "lower_order_final": False},
        {"final_sigmas_type": "sigma_min", "lower_order_final": False, "euler_at_final": True},
        {"use_exponential_sigmas": True},
        {"use_lu_lambdas": True},
    ],
)
def test_dpmpp_2m(options: dict[str, Any], prediction_type: str, steps: int) -> None:
    options = {**parity.STABLE_DIFFUSION, **options, "prediction_type": prediction_type}
    parity.check("dpmpp_2m", SCHEDULER(**options), steps)


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_many_steps_end_with_second_order_unless_no_noise_is_left(final: str) -> None:
    parity.check("dpmpp_2m", SCHEDULER(**parity.STABLE_DIFFUSION, final_sigmas_type=final), 16)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_dpmpp_2m_karras(prediction_type: str, steps: int) -> None:
    options = {**parity.STABLE_DIFFUSION, "prediction_type": prediction_type, "use_karras_sigmas": True}
    parity.check("dpmpp_2m_karras", SCHEDULER(**options), steps)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("options", [{}, {"solver_type": "heun"}, {"use_karras_sigmas": True}])
def test_dpmpp_2m_sde(options: dict[str, Any], steps: int) -> None:
    scheduler = SCHEDULER(**parity.STABLE_DIFFUSION, **options, algorithm_type="sde-dpmsolver++")
    plan = parity.check("dpmpp_2m_sde", scheduler, steps)
    assert plan.draws_noise == (steps > 1)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("prediction_type", ["flow_prediction", "epsilon"])
@pytest.mark.parametrize("options", [{"flow_shift": 3.0}, {"use_dynamic_shifting": True}])
def test_flow(options: dict[str, Any], prediction_type: str, steps: int) -> None:
    scheduler = SCHEDULER(use_flow_sigmas=True, prediction_type=prediction_type, **options)
    parity.check("dpmpp_2m", scheduler, steps, mu=0.8 if "use_dynamic_shifting" in options else None)


@pytest.mark.parametrize("first", [1, 3, 6])
@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_2m_sde"])
def test_a_picture_enters_with_first_order(name: str, first: int) -> None:
    algorithm = "sde-dpmsolver++" if name.endswith("sde") else "dpmsolver++"
    parity.check(name, SCHEDULER(**parity.STABLE_DIFFUSION, algorithm_type=algorithm), 7, first=first)


def test_a_flow_model_of_another_scheduler_keeps_its_shift() -> None:
    ours = samplers.plan("dpmpp_2m", 4, config={"shift": 3.0})
    theirs = SCHEDULER(use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction")
    assert ours.timesteps == samplers.plan("dpmpp_2m", 4, config=theirs.config).timesteps


@pytest.mark.parametrize(
    ("name", "config", "why"),
    [
        ("dpmpp_2m_karras", {"shift": 3.0}, "not for flow"),
        ("dpmpp_2m_sde", {"shift": 3.0}, "not for flow"),
        ("dpmpp_2m", {"shift": 3.0, "shift_terminal": 0.02}, "shifts"),
        ("dpmpp_2m", {"shift": 3.0, "time_shift_type": "linear"}, "shifts"),
        ("dpmpp_2m", {"variance_type": "learned"}, "variance"),
        ("dpmpp_2m", {"prediction_type": "depth"}, "depth"),
        ("dpmpp_2m", {"thresholding": True}, "threshold"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, config: dict[str, Any], why: str) -> None:
    with pytest.raises(errors.BadRequest, match=f"sampler: {name} .*{why}"):
        samplers.plan(name, 4, config=config)
