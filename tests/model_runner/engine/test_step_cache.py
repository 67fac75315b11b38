import dataclasses
from collections.abc import Sequence

import diffusers
import pytest
import torch
from torch import Tensor

from darkroom.model_runner.engine import samplers
from darkroom.model_runner.engine.state import BatchKey, Cached, Predictions, State
from darkroom.model_runner.engine.step_cache import StepCache, keep

TOKENS, CHANNELS = 6, 8
PLAN = samplers.plan("flow_euler", 10, config=diffusers.FlowMatchEulerDiscreteScheduler().config)


class Denoiser:
    """A FLUX of four blocks, and how often each of its blocks saw a row."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.model = diffusers.FluxTransformer2DModel(
            in_channels=CHANNELS,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=8,
            pooled_projection_dim=8,
            axes_dims_rope=(2, 2, 4),
            guidance_embeds=False,
        ).eval()
        self.seen = [0, 0, 0, 0]
        for index, block in enumerate([*self.model.transformer_blocks, *self.model.single_transformer_blocks]):
            block.attn.to_q.register_forward_hook(
                lambda _module, _inputs, output, index=index: self._count(index, output)
            )

    def _count(self, index: int, output: Tensor) -> None:
        self.seen[index] += output.shape[0]

    def forward(self, states: Sequence[State]) -> Predictions:
        copies = 2 if states[0].batch_key.guided else 1
        texts = [copy * state.conditioning["text"] for copy in (1, -1)[:copies] for state in states]
        times = torch.tensor([state.plan.timesteps[state.step] for state in states] * copies) / 1000
        predicted = self.model(
            hidden_states=torch.stack([state.latents for state in states] * copies),
            timestep=times,
            pooled_projections=torch.ones(len(states) * copies, 8),
            encoder_hidden_states=torch.stack(texts),
            txt_ids=torch.zeros(3, 3),
            img_ids=torch.zeros(TOKENS, 3),
            return_dict=False,
        )[0]
        return Predictions(predicted[: len(states)], predicted[len(states) :] if copies == 2 else None)


@pytest.fixture
def denoiser() -> Denoiser:
    return Denoiser()


def state(seed: int, *, guided: bool = False, draft: bool = True, step: int = 0) -> State:
    drawn = torch.randn(TOKENS + 3, CHANNELS, generator=torch.Generator().manual_seed(seed))
    return State(
        batch_key=BatchKey("m", "text", (32, 32), 3, guided),
        seed=seed,
        step=step,
        plan=PLAN,
        guidance=3.0,
        latents=drawn[:TOKENS],
        conditioning={"text": drawn[TOKENS:]},
        adapters=(),
        tier="DRAFT" if draft else "LOSSLESS",
    )


@torch.inference_mode()
def run(cache: StepCache, denoiser: Denoiser, rows: Sequence[State], pulls: Sequence[float], steps: int) -> list[State]:
    """Step the rows, whose latents move by `pull` times something random; the step that the model is told stays 0."""
    for step in range(steps):
        predictions = cache.denoise(rows, denoiser.forward)
        drawn = torch.randn(TOKENS, CHANNELS, generator=torch.Generator().manual_seed(step))
        moved = [
            dataclasses.replace(row, latents=row.latents + pull * drawn) for row, pull in zip(rows, pulls, strict=True)
        ]
        rows = keep(moved, predictions)
    return list(rows)


def test_a_row_that_stands_still_computes_two_steps_and_reuses_the_rest(denoiser: Denoiser) -> None:
    (row,) = run(StepCache(denoiser.model), denoiser, [state(1)], [0.0], 6)
    assert denoiser.seen == [6, 2, 2, 2]
    assert row.cached_steps == 4


def test_what_is_reused_is_what_the_blocks_would_have_computed_for_a_row_that_stands_still(denoiser: Denoiser) -> None:
    cache = StepCache(denoiser.model)
    rows = run(cache, denoiser, [state(1), state(2)], [0.0, 0.0], 3)
    with torch.inference_mode():
        reused, computed = cache.denoise(rows, denoiser.forward), denoiser.forward(rows)
    assert all(cached.is_reused for cached in reused.caches)
    assert torch.allclose(reused.positive, computed.positive, atol=1e-6)


def test_each_row_decides_for_itself_and_as_it_would_alone(denoiser: Denoiser) -> None:
    cache, pulls = StepCache(denoiser.model), [0.0, 5.0, 0.01]
    rows = [state(seed) for seed in (1, 2, 3)]
    together = run(cache, denoiser, rows, pulls, 8)
    alone = [run(cache, denoiser, [row], [pull], 8)[0] for row, pull in zip(rows, pulls, strict=True)]
    assert [row.cached_steps for row in together] == [row.cached_steps for row in alone]
    assert together[0].cached_steps == 6
    assert together[1].cached_steps == 0
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(one.latents, other.latents, atol=1e-5)


def test_the_decisions_of_all_rows_cross_to_the_host_at_once(
    denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    crossed, tolist = list[tuple[int, ...]](), Tensor.tolist

    def seen(tensor: Tensor) -> object:
        crossed.append(tuple(tensor.shape))
        return tolist(tensor)

    cache = StepCache(denoiser.model)
    rows = run(cache, denoiser, [state(seed) for seed in (1, 2, 3)], [0.0, 5.0, 0.0], 2)
    monkeypatch.setattr(Tensor, "tolist", seen)
    monkeypatch.setattr(Tensor, "item", seen)
    with torch.inference_mode():
        assert [cached.is_reused for cached in cache.denoise(rows, denoiser.forward).caches] == [True, False, True]
    assert crossed == [(3,)]


def test_small_changes_add_up_until_the_blocks_run_again(denoiser: Denoiser) -> None:
    cache = StepCache(denoiser.model, threshold=0.05)
    rows, reused = [state(3)], []
    for _ in range(10):
        before = rows[0].cached_steps
        rows = run(cache, denoiser, rows, [0.02], 1)
        reused.append(rows[0].cached_steps > before)
    assert True in reused
    assert False in reused[reused.index(True) :]


def test_no_change_is_small_enough_for_a_threshold_of_zero(denoiser: Denoiser) -> None:
    (row,) = run(StepCache(denoiser.model, threshold=0.0), denoiser, [state(1)], [0.0], 4)
    assert (row.cached_steps, denoiser.seen) == (0, [4, 4, 4, 4])


def test_both_halves_of_a_guided_row_must_agree(denoiser: Denoiser) -> None:
    rows = run(StepCache(denoiser.model), denoiser, [state(1, guided=True), state(2, guided=True)], [0.0, 5.0], 4)
    assert [row.cached_steps for row in rows] == [2, 0]
    assert rows[0].cache["rest"].shape == (2, TOKENS, 16)
    with torch.inference_mode():
        again = StepCache(denoiser.model).denoise(rows, denoiser.forward)
        computed = denoiser.forward(rows)
    assert again.negative is not None
    assert computed.negative is not None
    assert torch.allclose(again.negative, computed.negative, atol=1e-5)


def test_rows_of_other_tiers_are_computed_as_if_there_were_no_cache(denoiser: Denoiser) -> None:
    cache, rows = StepCache(denoiser.model), [state(1, draft=False), state(2, draft=False)]
    with torch.inference_mode():
        assert torch.equal(cache.denoise(rows, denoiser.forward).positive, denoiser.forward(rows).positive)
    stepped = run(cache, denoiser, [*rows, state(3)], [0.0, 0.0, 0.0], 3)
    assert [bool(row.cache) for row in stepped] == [False, False, True]
    assert [row.cached_steps for row in stepped] == [0, 0, 1]


def test_a_cache_that_was_saved_and_read_again_goes_on_the_same_way(denoiser: Denoiser) -> None:
    rows = run(StepCache(denoiser.model), denoiser, [state(3)], [0.01], 3)
    copied = [dataclasses.replace(row, cache={name: one.clone() for name, one in row.cache.items()}) for row in rows]
    here = run(StepCache(denoiser.model), denoiser, rows, [0.01], 4)
    there = run(StepCache(denoiser.model), denoiser, copied, [0.01], 4)
    assert here[0].cached_steps == there[0].cached_steps
    assert torch.equal(here[0].latents, there[0].latents)


def test_a_forward_that_fails_leaves_the_denoiser_as_it_was(denoiser: Denoiser) -> None:
    def fail(states: Sequence[State]) -> Predictions:
        denoiser.forward(states)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        StepCache(denoiser.model).denoise([state(1)], fail)
    blocks = [*denoiser.model.transformer_blocks, *denoiser.model.single_transformer_blocks]
    assert not any("forward" in vars(block) for block in blocks)


def test_only_rows_of_known_blocks_are_supported(denoiser: Denoiser) -> None:
    assert StepCache(denoiser.model).is_supported
    assert StepCache(wan()).is_supported
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 8), norm_num_groups=4, cross_attention_dim=8, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    assert not StepCache(unet).is_supported


def wan() -> torch.nn.Module:
    torch.manual_seed(2)
    model: torch.nn.Module = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
        text_dim=8, freq_dim=8, ffn_dim=16, num_layers=3,
    ).eval()  # fmt: skip
    return model


def z_image() -> torch.nn.Module:
    torch.manual_seed(3)
    model: torch.nn.Module = diffusers.ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=4, dim=16, n_layers=3, n_refiner_layers=1, n_heads=2,
        n_kv_heads=2, cap_feat_dim=8, axes_dims=[2, 2, 4], axes_lens=[64, 16, 16],
    ).eval()  # fmt: skip
    return model


def call_wan(model: torch.nn.Module, states: Sequence[State]) -> Tensor:
    videos = torch.stack([state.latents.flatten()[:32].view(4, 2, 2, 2) for state in states])
    texts = torch.stack([state.conditioning["text"] for state in states])
    called: Tensor = model(videos, torch.full((len(states),), 500), texts, return_dict=False)[0]
    return called


def call_z_image(model: torch.nn.Module, states: Sequence[State]) -> Tensor:
    pictures = [state.latents.flatten()[:16].view(4, 1, 2, 2) for state in states]
    texts = [state.conditioning["text"] for state in states]
    return torch.stack(model(pictures, torch.full((len(states),), 0.5), texts, return_dict=False)[0])


@pytest.mark.parametrize(("make", "call"), [(wan, call_wan), (z_image, call_z_image)])
def test_other_transformers_reuse_too(make: object, call: object) -> None:
    assert callable(make)
    assert callable(call)
    model = make()
    cache, rows = StepCache(model), [state(1), state(2)]
    with torch.inference_mode():
        for _ in range(3):
            predictions = cache.denoise(rows, lambda states: Predictions(call(model, states), None))
            rows = keep(rows, predictions)
        assert [row.cached_steps for row in rows] == [1, 1]
        assert torch.allclose(predictions.positive, call(model, rows), atol=1e-5)


def test_nothing_is_kept_behind_the_last_step(denoiser: Denoiser) -> None:
    (row,) = run(StepCache(denoiser.model), denoiser, [state(1)], [0.0], 2)
    assert row.cache
    last = dataclasses.replace(row, step=row.steps_total)
    (done,) = keep([last], Predictions(torch.zeros(1), None, (Cached(row.cache, True),)))
    assert (done.cache, done.cached_steps) == ({}, row.cached_steps + 1)
