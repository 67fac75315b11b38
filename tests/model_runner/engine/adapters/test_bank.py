"""LoRAs applied to a batch equal the same changes in the weights, whichever way they are applied."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from darkroom.model_runner.engine import adapters
from darkroom.model_runner.engine.adapters import merged
from darkroom.model_runner.engine.job import AdapterUse
from tests.model_runner.engine.adapters import lora


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., AdapterUse]:
    return lambda name, tensors, scale=1.0, **options: lora.save(tmp_path, name, tensors, scale=scale, **options)


@pytest.fixture(params=["merged", "beside"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Force one way of applying an adapter to a whole batch."""
    monkeypatch.setattr(merged, "pays", lambda *_: request.param == "merged")
    return str(request.param)


def bank(denoiser: nn.Module, resident_max: int = 8) -> adapters.Bank:
    return adapters.Bank(denoiser, resident_max=resident_max)


@torch.inference_mode()
def test_a_batch_mixes_adapters_scales_ranks_and_none(write: Any) -> None:
    denoiser = lora.Denoiser()
    one, other, third = lora.pairs(1), lora.pairs(2), lora.pairs(3, rank=4)
    strong, weak = write("one", one, 0.7), write("one", one, -0.2)
    second, wide = write("other", other, 1.5), write("third", third, 0.5)
    x = torch.randn(5, 6, 4, 4)
    with bank(denoiser).applied([[strong], [], [weak, wide], [second], [strong]]):
        ours = denoiser(x)
    expected = [
        lora.changed(denoiser, (one, 0.7))(x[:1]),
        denoiser(x[1:2]),
        lora.changed(denoiser, (one, -0.2), (third, 0.5))(x[2:3]),
        lora.changed(denoiser, (other, 1.5))(x[3:4]),
        lora.changed(denoiser, (one, 0.7))(x[4:]),
    ]
    torch.testing.assert_close(ours, torch.cat(expected), atol=1e-4, rtol=1e-5)
    assert torch.equal(ours[1], denoiser(x)[1])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 3), st.floats(-1, 1)), max_size=3), min_size=1, max_size=5),
)
@torch.inference_mode()
def test_every_row_has_what_it_would_have_alone(tmp_path: Path, rows: list[list[tuple[int, float]]]) -> None:
    denoiser, x = lora.Denoiser(), torch.randn(len(rows), 6, 4, 4)
    tensors = [lora.pairs(seed, rank=1 + seed % 2) for seed in range(4)]
    used = [[lora.save(tmp_path, str(i), tensors[i], scale=scale) for i, scale in row] for row in rows]
    with bank(denoiser).applied(used):
        ours = denoiser(x)
    for index, row in enumerate(rows):
        alone = lora.changed(denoiser, *((tensors[i], scale) for i, scale in row))(x[index : index + 1])
        torch.testing.assert_close(ours[index], alone[0], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("rows", [1, 3])
def test_one_set_for_a_whole_batch(write: Any, way: str, rows: int) -> None:
    denoiser, x = lora.Denoiser(), torch.randn(rows, 6, 4, 4)
    one, other = lora.pairs(1), lora.pairs(2, rank=3)
    keeper, uses = bank(denoiser), [write("one", one, 0.7), write("other", other, -0.4)]
    for _ in range(2):
        with keeper.applied([uses] * rows):
            ours = denoiser(x)
        torch.testing.assert_close(ours, lora.changed(denoiser, (one, 0.7), (other, -0.4))(x), atol=1e-4, rtol=1e-5)
        assert lora.swapped(denoiser) == []
    weights = sum(lora.weight(denoiser, name).nbytes for name in lora.NAMES)
    assert keeper.merged_bytes == (weights if way == "merged" else 0)
    keeper.release()
    assert keeper.merged_bytes == 0


@torch.inference_mode()
def test_sets_take_turns_and_leave_the_weights_as_they_were(write: Any, way: str) -> None:
    denoiser, x = lora.Denoiser(), torch.randn(2, 6, 4, 4)
    one, other = lora.pairs(1), lora.pairs(2, rank=3)
    first, second, weaker = write("one", one), write("other", other), write("one", one, 0.25)
    keeper, before = bank(denoiser), denoiser(x)
    pristine = [lora.weight(denoiser, name) for name in lora.NAMES]
    turns: list[tuple[list[list[AdapterUse]], nn.Module]] = [
        ([[first], [first]], lora.changed(denoiser, (one, 1.0))),
        ([[], []], denoiser),
        ([[second], [second]], lora.changed(denoiser, (other, 1.0))),
        ([[weaker], [weaker]], lora.changed(denoiser, (one, 0.25))),
        ([[first, second], [second, first]], lora.changed(denoiser, (one, 1.0), (other, 1.0))),
    ]
    for rows, expected in [*turns, *reversed(turns)]:
        with keeper.applied(rows):
            ours = denoiser(x)
        torch.testing.assert_close(ours, expected(x), atol=1e-4, rtol=1e-5)
        assert torch.equal(denoiser(x), before)
        assert all(lora.weight(denoiser, name) is weight for name, weight in zip(lora.NAMES, pristine, strict=True))


@torch.inference_mode()
def test_the_denoiser_is_as_before_even_if_a_forward_fails(write: Any, way: str) -> None:
    denoiser, x = lora.Denoiser(), torch.randn(2, 6, 4, 4)
    before, use, other = denoiser(x), write("one", lora.pairs(1)), write("other", lora.pairs(2))
    for rows in ([[use], [use]], [[use], [other]]):
        with pytest.raises(RuntimeError, match=r"channels|size"), bank(denoiser).applied(rows):
            denoiser(torch.cat([x, x], dim=1))
        assert lora.swapped(denoiser) == []
        assert torch.equal(denoiser(x), before)


@torch.inference_mode()
def test_the_same_batch_meets_the_same_arithmetic_whatever_ran_before(write: Any) -> None:
    denoiser, x = lora.Denoiser(), torch.randn(2, 6, 4, 4)
    use, other = write("one", lora.pairs(1)), write("other", lora.pairs(2))
    fresh, used = bank(denoiser), bank(denoiser)
    for rows in ([[use], [other]], [[use], []], [[other], [other]]):
        with used.applied(rows):
            denoiser(x)
    for rows in ([[use], [use]], [[use], [other]]):
        with fresh.applied(rows):
            expected = denoiser(x)
        with used.applied(rows):
            assert torch.equal(denoiser(x), expected)


@torch.inference_mode()
def test_a_unet_has_its_own_prefix(write: Any) -> None:
    denoiser, x = lora.Denoiser(), torch.randn(1, 6, 4, 4)
    tensors = lora.pairs(1, prefix="unet")
    with adapters.Bank(denoiser, resident_max=1, prefix="unet").applied([[write("one", tensors)]]):
        ours = denoiser(x)
    torch.testing.assert_close(ours, lora.changed(denoiser, (tensors, 1.0), prefix="unet")(x), atol=1e-4, rtol=1e-5)


def test_the_longest_unused_leaves_and_comes_back(write: Any) -> None:
    keeper = bank(lora.Denoiser(), resident_max=2)
    uses = {name: write(name, lora.pairs(1)) for name in "abc"}
    for name in "abac":
        keeper.get(uses[name])
    assert tuple(keeper.resident) == ("a", "c")
    assert set(keeper.get(uses["b"])) == set(lora.NAMES)
    assert tuple(keeper.resident) == ("c", "b")
    with keeper.applied([[uses["c"]]]):
        assert tuple(keeper.resident) == ("b", "c")


@torch.inference_mode()
def test_a_batch_that_goes_on_reads_nothing_though_it_has_more_adapters_than_stay(write: Any) -> None:
    denoiser, x = lora.Denoiser(), torch.randn(3, 6, 4, 4)
    uses = [write(str(seed), lora.pairs(seed)) for seed in range(3)]
    keeper = bank(denoiser, resident_max=2)
    with keeper.applied([[use] for use in uses]):
        first = denoiser(x)
    for use in uses:
        use.path.unlink()
    with keeper.applied([[use] for use in uses]):
        assert torch.equal(denoiser(x), first)
