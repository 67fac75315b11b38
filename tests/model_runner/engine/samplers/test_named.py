from typing import Any

import diffusers
import numpy as np
import pytest

from darkroom.model_runner.engine import errors, samplers
from tests.model_runner.engine.samplers import parity


@pytest.mark.parametrize("name", samplers.NAMES)
def test_every_name_has_a_plan(name: str) -> None:
    plan = samplers.plan(name, 4, config={"shift": 1.0} if name == "flow_euler" else parity.STABLE_DIFFUSION)
    assert plan.sampler == name
    assert plan.steps == (5 if name == "pndm" else 4)
    assert plan.matrices.shape == (plan.steps, 1 + plan.history, 3 + plan.history)
    assert plan.matrices.dtype == np.float64
    assert plan.noising.shape == (plan.steps, 2)


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(errors.BadRequest, match="sampler: there is no 'nothing'; choose one of flow_euler, euler"):
        samplers.plan("nothing", 5, config={})


@pytest.mark.parametrize(
    ("scheduler", "name"),
    [
        (diffusers.FlowMatchEulerDiscreteScheduler(), "flow_euler"),
        (diffusers.EulerDiscreteScheduler(), "euler"),
        (diffusers.EulerAncestralDiscreteScheduler(), "euler_ancestral"),
        (diffusers.DDIMScheduler(), "ddim"),
        (diffusers.DPMSolverMultistepScheduler(), "dpmpp_2m"),
        (diffusers.DPMSolverMultistepScheduler(use_karras_sigmas=True), "dpmpp_2m_karras"),
        (diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"), "dpmpp_2m_sde"),
        (diffusers.UniPCMultistepScheduler(), "unipc"),
        (diffusers.LCMScheduler(), "lcm"),
        (diffusers.PNDMScheduler(skip_prk_steps=True), "pndm"),
        (diffusers.PNDMScheduler(), "ddim"),
        (diffusers.FlowMatchHeunDiscreteScheduler(), "flow_euler"),
    ],
)
def test_the_default_is_what_the_model_was_saved_with(scheduler: Any, name: str, tmp_path: Any) -> None:
    scheduler.save_pretrained(tmp_path)
    config = type(scheduler).from_pretrained(tmp_path).config
    assert samplers.default_name(config) == name
