"""The tables for Stable Audio's noise levels equal diffusers' scheduler, step by step."""

import math
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from darkroom.model_runner.engine import errors
from darkroom.model_runner.engine.plan import Plan
from darkroom.model_runner.engine.samplers import edm

EDM = diffusers.EDMDPMSolverMultistepScheduler
STABLE_AUDIO = {"sigma_min": 0.3, "sigma_max": 500.0, "sigma_data": 1.0, "sigma_schedule": "exponential"}


class Cosine(EDM):  # type: ignore[misc]
    """CosineDPMSolverMultistepScheduler with plain noise: diffusers' own needs torchsde even to be imported."""

    def precondition_noise(self, sigma: Tensor) -> Tensor:
        return torch.as_tensor(sigma).atan() / math.pi * 2


def predicted(latents: Tensor, timestep: float) -> Tensor:
    """Stand in for a network."""
    return torch.sin(3 * latents + timestep)


def run(plan: Plan, noise: Tensor, generator: torch.Generator) -> Tensor:
    latents, history = noise * plan.noise_scale, torch.zeros_like(noise)
    for step, matrix in enumerate(torch.from_numpy(plan.matrices).float()):
        prediction = predicted(latents * plan.input_scales[step], plan.timesteps[step])
        fresh = torch.randn(latents.shape, generator=generator) if plan.draws_noise else torch.zeros_like(latents)
        columns = torch.stack([latents, prediction, history, fresh])
        latents, history = torch.tensordot(matrix, columns, dims=1).unbind()
    return latents


def reference(scheduler: Any, steps: int, noise: Tensor, generator: torch.Generator) -> Tensor:
    scheduler.set_timesteps(steps)
    latents = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        prediction = predicted(scheduler.scale_model_input(latents, timestep), timestep.item())
        latents = scheduler.step(prediction, timestep, latents, generator=generator).prev_sample
    return latents


@pytest.mark.parametrize("steps", [1, 2, 3, 14, 20])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        STABLE_AUDIO,
        {"prediction_type": "v_prediction", "solver_type": "heun", "sigma_data": 1.0},
        {"solver_order": 1},
        {"euler_at_final": True},
    ],
)
@pytest.mark.parametrize("name", [edm.ODE, edm.SDE])
def test_a_plan_is_the_scheduler(name: str, changes: dict[str, Any], steps: int) -> None:
    algorithm = {edm.ODE: "dpmsolver++", edm.SDE: "sde-dpmsolver++"}[name]
    scheduler = EDM(**changes, algorithm_type=algorithm)
    made = edm.plan(name, steps, config=scheduler.config | {"_class_name": "EDMDPMSolverMultistepScheduler"})
    assert made.steps == steps
    assert made.draws_noise == (name == edm.SDE and steps > 1)
    noise = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    ours = run(made, noise, torch.Generator().manual_seed(2))
    theirs = reference(scheduler, steps, noise, torch.Generator().manual_seed(2))
    torch.testing.assert_close(ours, theirs, atol=5e-5, rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 6, 20])
def test_the_cosine_scheduler_has_its_own_levels_and_times(steps: int) -> None:
    scheduler = Cosine(**STABLE_AUDIO, prediction_type="v_prediction", algorithm_type="sde-dpmsolver++")
    config = {"_class_name": "CosineDPMSolverMultistepScheduler"}
    made = edm.plan(edm.default_name(config), steps, config=config)
    assert 0 < made.timesteps[-1] <= made.timesteps[0] < 1
    noise = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    ours = run(made, noise, torch.Generator().manual_seed(2))
    theirs = reference(scheduler, steps, noise, torch.Generator().manual_seed(2))
    torch.testing.assert_close(ours, theirs, atol=5e-5, rtol=1e-6)


def test_each_step_s_noise_is_right_in_size() -> None:
    """A model that knows the clean latents (zeros) keeps the process at the schedule's own noise level."""
    config = {"_class_name": "CosineDPMSolverMultistepScheduler"}
    made = edm.plan(edm.SDE, 10, config=config)
    sigmas = made.noising[:, 1]
    deviation = sigmas[0]
    for step in range(8):
        carried = made.matrices[step, 0, 0] - made.matrices[step, 0, 1] * _skip_over_out(made, step)
        deviation = math.hypot(carried * deviation, made.matrices[step, 0, 3])
        assert deviation == pytest.approx(sigmas[step + 1], rel=1e-6)


def _skip_over_out(plan: Plan, step: int) -> float:
    """Return minus the prediction, per unit of latents, of a model that says that clean latents are zeros."""
    return float(plan.matrices[step, 1, 0] / plan.matrices[step, 1, 1])


def test_the_default_is_what_the_model_was_saved_with() -> None:
    assert edm.default_name({"_class_name": "CosineDPMSolverMultistepScheduler"}) == edm.SDE
    assert edm.default_name({"_class_name": "EDMDPMSolverMultistepScheduler"}) == edm.ODE
    stochastic = {"_class_name": "EDMDPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}
    assert edm.default_name(stochastic) == edm.SDE


@pytest.mark.parametrize(
    ("name", "config"), [("euler", {}), (edm.ODE, {"solver_order": 3}), (edm.ODE, {"thresholding": True})]
)
def test_what_it_cannot_do_is_refused_by_name(name: str, config: dict[str, Any]) -> None:
    with pytest.raises(errors.BadRequest, match="sampler"):
        edm.plan(name, 4, config={"_class_name": "EDMDPMSolverMultistepScheduler"} | config)
