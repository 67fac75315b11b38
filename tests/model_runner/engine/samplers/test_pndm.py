import diffusers
import pytest

from darkroom.model_runner.engine import errors, samplers
from tests.model_runner.engine.samplers import parity

SCHEDULER = diffusers.PNDMScheduler
BASE = parity.STABLE_DIFFUSION | {"skip_prk_steps": True}


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_pndm(spacing: str, prediction_type: str, steps: int) -> None:
    options = BASE | {"timestep_spacing": spacing, "prediction_type": prediction_type}
    plan = parity.check("pndm", SCHEDULER(**options), steps)
    assert plan.steps == (steps + 1 if steps > 1 else 1)


@pytest.mark.parametrize("first", [1, 2, 6, 8])
def test_a_picture_enters_with_low_order(first: int) -> None:
    parity.check("pndm", SCHEDULER(**BASE), 8, first=first)


@pytest.mark.parametrize("config", [{"shift": 3.0}, {"prediction_type": "sample"}])
def test_what_does_not_fit_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(errors.BadRequest, match="sampler: pndm"):
        samplers.plan("pndm", 4, config=config)
