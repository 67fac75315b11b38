import diffusers
import numpy as np
import pytest

from darkroom.model_runner.engine import errors
from darkroom.model_runner.engine.samplers import levels


def request(steps: int = 4, mu: float | None = None, **config: object) -> levels.Request:
    return levels.Request(sampler="euler", steps=steps, config=config, mu=mu, sigmas=None)


def test_a_table_is_read_in_full_precision() -> None:
    scheduler = levels.schedule(diffusers.EulerDiscreteScheduler, request(), overrides={})
    table = levels.read(scheduler)
    assert table.timesteps.tolist() == scheduler.timesteps.tolist()
    assert table.sigmas.dtype == np.float64
    assert table.sigmas.tolist() == scheduler.sigmas.tolist()
    assert table.config["prediction_type"] == "epsilon"


def test_flow_models_are_known_by_their_scheduler() -> None:
    assert levels.is_flow(diffusers.FlowMatchEulerDiscreteScheduler().config)
    assert levels.is_flow({"use_flow_sigmas": True})
    assert levels.is_flow({"prediction_type": "flow_prediction"})
    assert not levels.is_flow(diffusers.UniPCMultistepScheduler().config)
    assert not levels.is_flow(diffusers.PNDMScheduler().config)


def test_a_curve_splits_what_latents_hold() -> None:
    sigmas = np.array([3.0, 1.0, 0.5])
    table = levels.Levels(config={}, timesteps=np.zeros(2), sigmas=sigmas, noise_scale=1.0)
    curve = levels.curve(table)
    np.testing.assert_allclose(curve.alpha**2 + curve.sigma**2, 1.0)
    np.testing.assert_allclose(curve.sigma / curve.alpha, sigmas)
    np.testing.assert_allclose(curve.log_ratio, -np.log(sigmas))
    flow = levels.curve(table._replace(config={"use_flow_sigmas": True}, sigmas=np.array([0.75, 0.5])))
    np.testing.assert_allclose(flow.alpha + flow.sigma, 1.0)


def test_training_timesteps_split_what_latents_hold() -> None:
    scheduler = diffusers.DDIMScheduler(set_alpha_to_one=False)
    alpha, sigma = levels.split(scheduler, np.array([999, 0, -20]))
    np.testing.assert_allclose(alpha**2, scheduler.alphas_cumprod[[999, 0, 0]])
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_a_true_prediction_shows_the_clean_picture(kind: str) -> None:
    clean, noise, alpha, sigma = 2.0, -3.0, 0.8, 0.6
    said = {"epsilon": noise, "sample": clean, "v_prediction": alpha * noise - sigma * clean}[kind]
    a, b = levels.clean(request(), kind, alpha=alpha, sigma=sigma)
    assert a * (alpha * clean + sigma * noise) + b * said == pytest.approx(clean)


def test_a_true_velocity_shows_the_clean_picture() -> None:
    a, b = levels.clean(request(), "flow_prediction", alpha=0.25, sigma=0.75)
    assert a * (0.25 * 2.0 + 0.75 * -3.0) + b * (-3.0 - 2.0) == pytest.approx(2.0)


def test_a_shift_by_size_needs_mu() -> None:
    assert levels.shift(request(mu=0.5)) == {}
    assert levels.shift(request(mu=0.5, use_dynamic_shifting=True)) == {"mu": 0.5}
    with pytest.raises(ValueError, match="mu"):
        levels.shift(request(use_dynamic_shifting=True))


def test_a_flow_model_is_spelled_for_multi_step_schedulers() -> None:
    spelled = levels.as_flow_sigmas({"shift": 3.0, "use_karras_sigmas": True})
    assert (spelled["flow_shift"], spelled["prediction_type"]) == (3.0, "flow_prediction")
    assert spelled["use_karras_sigmas"] is False
    assert levels.as_flow_sigmas({"use_flow_sigmas": True, "flow_shift": 5.0}) == {"use_flow_sigmas": True}


def test_what_diffusers_does_not_take_is_the_request_s_fault() -> None:
    with pytest.raises(errors.BadRequest, match="sampler: euler cannot take 4 steps with this model: spacing"):
        levels.schedule(diffusers.EulerDiscreteScheduler, request(timestep_spacing="spacing"), overrides={})
