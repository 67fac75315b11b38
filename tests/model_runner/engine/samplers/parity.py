"""A run by our samplers beside the same run by a diffusers scheduler.

In: a sampler's name and the scheduler it stands for, freshly made. Out: `check`, which asserts that every step's latents agree
to 1e-5 of the size that latents have had so far (diffusers subtracts numbers of that size from each other in float32), with
a model that is linear and not linear in what it sees, and knows the time.
"""

from typing import Any

import torch
from torch import Tensor

from darkroom.model_runner.engine import samplers
from darkroom.model_runner.engine.state import BatchKey, Predictions, State

SHAPE = (4, 6, 5)
STABLE_DIFFUSION = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
_MIX = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))[0]


def predict(latents: Tensor, timestep: float) -> Tensor:
    """Stand in for a denoiser, [rows, 4, ...] to the same."""
    mixed = torch.einsum("ij,bj...->bi...", _MIX, latents)
    return 0.6 * latents + 0.3 * torch.tanh(mixed + timestep / 700)


def make_state(plan: samplers.Plan, *, seed: int = 1, clean: Tensor | None = None, **changes: Any) -> State:
    """Return a row at its first step: from pure noise, or from `clean` as the plan enters it."""
    generator = torch.Generator("cpu").manual_seed(seed)
    noise = torch.randn(SHAPE, generator=generator)
    kept, added = plan.noising[0]
    values: dict[str, Any] = {
        "batch_key": BatchKey("m", "text", (48, 40), 4, False),
        "seed": seed,
        "step": 0,
        "plan": plan,
        "guidance": 1.0,
        "latents": noise * plan.noise_scale if clean is None else float(kept) * clean + float(added) * noise,
        "conditioning": {},
        "adapters": (),
        "noise_rng": generator.get_state() if plan.draws_noise else None,
    }
    return State(**(values | changes))


def step(states: list[State]) -> list[State]:
    """Take one step of every row in one batch."""
    predicted = [
        predict(state.latents[None] * state.plan.input_scales[state.step], state.plan.timesteps[state.step])
        for state in states
    ]
    return samplers.advance(states, Predictions(torch.cat(predicted), None))


def check(
    name: str, scheduler: Any, steps: int, *, first: int = 0, mu: float | None = None, sigmas: Any = None
) -> samplers.Plan:
    """Assert that a run equals diffusers', from noise, or from a picture that enters at step `first`; return its plan."""
    plan = samplers.plan(name, steps, config=scheduler.config, mu=mu, sigmas=sigmas).after(first)
    _set(scheduler, steps, mu, sigmas)
    timesteps = scheduler.timesteps[first:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    clean = torch.full(SHAPE, 0.5) if first else None
    state = make_state(plan, clean=clean)
    generator = torch.Generator("cpu").manual_seed(1)
    theirs = torch.randn((1, *SHAPE), generator=generator)
    if clean is None:
        theirs = theirs * getattr(scheduler, "init_noise_sigma", 1.0)
    else:
        enter = getattr(scheduler, "add_noise", None)
        now = timesteps[:1]
        theirs = enter(clean[None], theirs, now) if enter else scheduler.scale_noise(clean[None], now, theirs)
    size = _agree(state.latents, theirs, 1.0)
    assert plan.steps == len(timesteps)
    for timestep in timesteps:
        seen = scheduler.scale_model_input(theirs, timestep) if hasattr(scheduler, "scale_model_input") else theirs
        options = {"generator": generator} if plan.draws_noise else {}
        theirs = scheduler.step(predict(seen, float(timestep)), timestep, theirs, **options, return_dict=False)[0]
        (state,) = step([state])
        size = _agree(state.latents, theirs, size)
    assert state.step == state.steps_total
    return plan


def _set(scheduler: Any, steps: int, mu: float | None, sigmas: Any) -> None:
    options: dict[str, Any] = {} if mu is None else {"mu": mu}
    if sigmas is None:
        scheduler.set_timesteps(steps, **options)
    else:
        scheduler.set_timesteps(sigmas=sigmas, **options)


def _agree(ours: Tensor, theirs: Tensor, size: float) -> float:
    error, size = (ours - theirs[0]).abs().max().item(), max(size, theirs.abs().max().item())
    assert error <= 1e-5 * size, f"{error:.1e} apart, of latents up to {size:.1f}"
    return size
