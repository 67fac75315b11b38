"""A batch of rows is each row alone: whatever their samplers, steps, guidance and places in their tables."""

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.model_runner.engine import samplers
from darkroom.model_runner.engine.state import Predictions, State
from tests.model_runner.engine.samplers import parity

NAMES = samplers.NAMES


def plan(name: str, steps: int) -> samplers.Plan:
    flow = name in ("flow_euler", "unipc")
    return samplers.plan(name, steps, config={"shift": 3.0} if flow else parity.STABLE_DIFFUSION)


def moving(*lengths: float) -> samplers.Plan:
    """Return a plan that adds the prediction times `lengths`."""
    steps = len(lengths)
    return samplers.Plan(
        sampler="flow_euler",
        timesteps=(0.0,) * steps,
        input_scales=(1.0,) * steps,
        matrices=np.array([[[1.0, length, 0.0]] for length in lengths]),
        noise_scale=1.0,
        noising=np.zeros((steps, 2)),
    )


def run(state: State) -> State:
    while state.step < state.steps_total:
        (state,) = parity.step([state])
    return state


@pytest.mark.parametrize("sampler", ["flow_euler", "other"])
def test_every_row_has_its_own_step_and_guidance(sampler: str) -> None:
    one = parity.make_state(moving(-0.75, -0.25), latents=torch.zeros(1), guidance=2.0)
    other = parity.make_state(
        dataclasses.replace(moving(-0.25, -0.25, -0.5), sampler=sampler), latents=torch.ones(1), step=2, guidance=3.0
    )
    predictions = Predictions(torch.tensor([[4.0], [2.0]]), torch.tensor([[1.0], [1.0]]))
    moved = samplers.advance([one, other], predictions)
    # 0 - 0.75 * (1 + 2 * 3) and 1 - 0.5 * (1 + 3 * 1)
    assert [state.latents.item() for state in moved] == [-5.25, -1.0]
    assert [state.step for state in moved] == [1, 3]
    assert (one.step, one.latents.item()) == (0, 0.0)


def test_a_row_whose_guidance_is_1_ignores_its_negative() -> None:
    rows = [
        parity.make_state(plan(name, 3), latents=torch.ones(2), guidance=1.0)
        for name in ("flow_euler", "ddim", "unipc")
    ]
    positive, negative = torch.full((3, 2), 0.1), torch.full((3, 2), float("inf"))
    alone = samplers.advance(rows, Predictions(positive, None))
    for ours, theirs in zip(samplers.advance(rows, Predictions(positive, negative)), alone, strict=True):
        assert torch.equal(ours.latents, theirs.latents)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(NAMES), st.integers(1, 5), st.integers(0, 4), st.floats(0, 9), st.integers(0, 99)),
        min_size=1,
        max_size=5,
    ),
    st.booleans(),
)
def test_rows_never_influence_each_other(rows: list[tuple[str, int, int, float, int]], guided: bool) -> None:
    torch.manual_seed(0)
    states = []
    for name, steps, start, guidance, seed in rows:
        made = plan(name, steps)
        history = tuple(torch.randn(parity.SHAPE) for _ in range(made.history))
        changes: dict[str, Any] = {"step": min(start, steps - 1), "guidance": guidance, "history": history}
        states.append(parity.make_state(made, seed=seed, **changes))
    said = torch.randn(2, len(states), *parity.SHAPE)
    together = samplers.advance(states, Predictions(said[0], said[1] if guided else None))
    for index, state in enumerate(states):
        mine = said[:, index : index + 1]
        (alone,) = samplers.advance([state], Predictions(mine[0], mine[1] if guided else None))
        assert_equal(together[index], alone)


def assert_equal(one: State, other: State) -> None:
    assert one.step == other.step
    assert torch.equal(one.latents, other.latents)
    assert len(one.history) == len(other.history) == one.plan.history
    assert all(torch.equal(*pair) for pair in zip(one.history, other.history, strict=True))
    assert (one.noise_rng is None) == (other.noise_rng is None)
    assert one.noise_rng is None or other.noise_rng is None or torch.equal(one.noise_rng, other.noise_rng)


@pytest.mark.parametrize("name", NAMES)
def test_a_copied_state_goes_on_bit_for_bit(name: str) -> None:
    state = parity.make_state(plan(name, 5))
    states = [state]
    while state.step < state.steps_total:
        (state,) = parity.step([state])
        states.append(state)
    for kept in states:
        assert_equal(run(copy.deepcopy(kept)), states[-1])


def test_a_mixed_batch_equals_each_row_alone_over_whole_runs() -> None:
    states = [parity.make_state(plan(name, 2 + index % 4), seed=index) for index, name in enumerate(NAMES)]
    alone = [run(state) for state in states]
    live = dict(enumerate(states))
    while any(state.step < state.steps_total for state in live.values()):
        going = [index for index, state in live.items() if state.step < state.steps_total]
        live |= zip(going, parity.step([live[index] for index in going]), strict=True)
    for index, state in live.items():
        assert_equal(state, alone[index])


def test_noise_comes_from_the_row_s_own_generator() -> None:
    state = parity.make_state(plan("euler_ancestral", 3))
    silence = Predictions(torch.zeros(1, *parity.SHAPE), None)
    (drawn,) = samplers.advance([state], silence)
    assert state.noise_rng is not None
    assert drawn.noise_rng is not None
    generator = torch.Generator("cpu").set_state(state.noise_rng)
    noise = torch.randn(parity.SHAPE, generator=generator)
    assert torch.equal(generator.get_state(), drawn.noise_rng)
    kept, *_, added = state.plan.matrices[0, 0].tolist()
    torch.testing.assert_close(drawn.latents, kept * state.latents + added * noise)
    with pytest.raises(ValueError, match="noise_rng"):
        samplers.advance([dataclasses.replace(state, noise_rng=None)], silence)


def test_half_precision_predictions_are_combined_in_float32() -> None:
    for name in ("flow_euler", "ddim"):
        state = parity.make_state(plan(name, 3), guidance=4.0)
        said = torch.randn(2, 1, *parity.SHAPE).bfloat16()
        (ours,) = samplers.advance([state], Predictions(said[0], said[1]))
        (wide,) = samplers.advance([state], Predictions(said[0].float(), said[1].float()))
        assert ours.latents.dtype == torch.float32
        assert torch.equal(ours.latents, wide.latents)
