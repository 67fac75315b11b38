import pytest
import torch

from darkroom.model_runner.engine import quantize


def test_a_cpu_with_bfloat16_arithmetic_has_a_copy_of_float32_weights_only(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert quantize.is_possible(cpu, torch.float32)
    assert not quantize.is_possible(cpu, torch.bfloat16)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert not quantize.is_possible(cpu, torch.float32)


@pytest.mark.parametrize(
    ("capability", "installed", "dtype", "possible"),
    [
        ((9, 0), True, torch.bfloat16, True),
        ((8, 9), True, torch.float16, True),
        ((8, 6), True, torch.bfloat16, False),
        ((9, 0), False, torch.bfloat16, False),
        ((9, 0), True, torch.float32, False),
    ],
)
def test_cuda_needs_fp8_arithmetic_and_torchao(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], installed: bool, dtype: torch.dtype, possible: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if installed else None)
    assert quantize.is_possible(torch.device("cuda:0"), dtype) is possible


def test_a_copy_computes_nearly_the_same_and_leaves_its_original_alone() -> None:
    torch.manual_seed(0)
    original = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.SiLU(), torch.nn.Linear(8, 8))
    given = torch.randn(4, 8)
    with torch.inference_mode():
        before = original(given)
        copied = quantize.lighter(original)(given.to(torch.bfloat16))
        assert torch.equal(original(given), before)
    assert copied.dtype == torch.bfloat16
    assert torch.allclose(copied.float(), before, atol=0.02)


def test_what_is_to_stay_in_float32_stays() -> None:
    class Rotary(torch.nn.Module):
        _keep_in_fp32_modules = ("rope",)

        def __init__(self) -> None:
            super().__init__()
            self.project = torch.nn.Linear(2, 2)
            self.register_buffer("rope", torch.ones(2))
            self.register_buffer("index", torch.ones(2, dtype=torch.int64))

    copied = quantize.lighter(Rotary())
    assert {name: tensor.dtype for name, tensor in copied.state_dict().items()} == {
        "project.weight": torch.bfloat16,
        "project.bias": torch.bfloat16,
        "rope": torch.float32,
        "index": torch.int64,
    }


def test_a_copy_shares_what_it_does_not_hold_in_fewer_bits() -> None:
    class Tied(torch.nn.Module):
        _keep_in_fp32_modules = ("kept",)

        def __init__(self) -> None:
            super().__init__()
            self.kept, self.one, self.other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
            self.other.weight = self.one.weight

    original = Tied()
    copied = quantize.lighter(original)
    assert copied.kept.weight is original.kept.weight
    assert copied.one.weight is copied.other.weight
    assert (copied.one.weight.dtype, original.one.weight.dtype) == (torch.bfloat16, torch.float32)
