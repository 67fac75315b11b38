"""Proves `guidance_step`: the reference against an independent formula, every build of the source, the kernel where a GPU is."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from darkroom_kernels import dispatch, emulate, nvrtc, ops, testing
from darkroom_kernels.guidance_step import KERNEL, launch, shapes

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
Arguments = tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor, Tensor | None]

needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device: the kernel's numerics run where one is"
)
needs_nvrtc = pytest.mark.skipif(not nvrtc.available(), reason="the [gpu] extra is not installed")


def draw(
    shape: tuple[int, ...], x_dtype: torch.dtype, v_dtype: torch.dtype, *, guided: bool, device: str = "cpu"
) -> Arguments:
    """Arguments of a batch whose rows are at different steps; with guidance, the last row's is exactly 1."""
    generator = torch.Generator().manual_seed(7)
    x, v_pos, v_neg = (torch.randn(shape, generator=generator) for _ in range(3))
    sigma = torch.rand(shape[0], generator=generator) * 0.5 + 0.5
    guidance = torch.rand(shape[0], generator=generator) * 9.0 + 1.5
    guidance[-1] = 1.0
    sigma_next = sigma * 0.9
    drawn = (
        x.to(device, x_dtype),
        v_pos.to(device, v_dtype),
        v_neg.to(device, v_dtype) if guided else None,
        sigma.to(device),
        sigma_next.to(device),
        guidance.to(device) if guided else None,
    )
    return drawn


def by_hand(
    x: Tensor, v_pos: Tensor, v_neg: Tensor | None, sigma: Tensor, sigma_next: Tensor, guidance: Tensor | None
) -> Tensor:
    """The same in float64, row by row, in another form of the formula."""
    rows = []
    for row in range(x.shape[0]):
        velocity = v_pos[row].double()
        if v_neg is not None and guidance is not None:
            scale = guidance[row].double()
            velocity = scale * velocity + (1 - scale) * v_neg[row].double()
        rows.append(x[row].double() + velocity * (sigma_next[row].double() - sigma[row].double()))
    return torch.stack(rows)


@pytest.mark.parametrize("shape", shapes.TEST_SHAPES, ids=str)
@pytest.mark.parametrize("dtypes", shapes.DTYPE_PAIRS, ids=str)
@pytest.mark.parametrize("guided", [False, True])
def test_agrees_with_float64(shape: tuple[int, ...], dtypes: tuple[torch.dtype, torch.dtype], guided: bool) -> None:
    arguments = draw(shape, *dtypes, guided=guided)
    result = ops.guidance_step(*arguments)
    assert result.dtype == arguments[0].dtype
    assert result.shape == arguments[0].shape
    tolerance = shapes.TOLERANCES[result.dtype]
    torch.testing.assert_close(result.double(), by_hand(*arguments), rtol=tolerance.relative, atol=tolerance.absolute)


def test_row_at_guidance_one_is_the_row_without_guidance() -> None:
    x, v_pos, v_neg, sigma, sigma_next, guidance = draw((3, 4, 5), torch.float32, torch.float32, guided=True)
    assert v_neg is not None
    v_neg[-1] = torch.nan
    guided = ops.guidance_step(x, v_pos, v_neg, sigma, sigma_next, guidance)
    plain = ops.guidance_step(x, v_pos, None, sigma, sigma_next, None)
    assert torch.equal(guided[-1], plain[-1])
    assert not torch.equal(guided[0], plain[0])


def test_row_does_not_depend_on_its_batch() -> None:
    arguments = draw((4, 3, 7), torch.float32, torch.bfloat16, guided=True)
    together = ops.guidance_step(*arguments)
    for row in range(4):
        x, v_pos, v_neg, sigma, sigma_next, guidance = (
            argument[row : row + 1] if argument is not None else None for argument in arguments
        )
        assert x is not None
        assert v_pos is not None
        assert sigma is not None
        assert sigma_next is not None
        assert torch.equal(ops.guidance_step(x, v_pos, v_neg, sigma, sigma_next, guidance)[0], together[row])


def test_arguments_stay_as_they_were_and_strides_do_not_matter() -> None:
    arguments = draw((2, 6, 4), torch.float32, torch.float32, guided=True)
    before = [argument.clone() for argument in arguments if argument is not None]
    expected = ops.guidance_step(*arguments)
    assert all(torch.equal(was, now) for was, now in zip(before, [a for a in arguments if a is not None], strict=True))
    strided = arguments[0].transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(ops.guidance_step(strided, *arguments[1:]), expected)


@pytest.mark.parametrize(
    ("position", "wrong", "named"),
    [
        (0, torch.randn(2, 3, dtype=torch.float64), "x must be"),
        (0, torch.tensor(1.0), "x must be"),
        (1, torch.randn(2, 4), "v_pos"),
        (2, None, "v_neg and guidance"),
        (2, torch.randn(2, 3, dtype=torch.float16), "v_neg must"),
        (3, torch.rand(1), "sigma must"),
        (4, torch.rand(2, dtype=torch.float64), "sigma_next must"),
        (5, torch.rand(2, 1), "guidance must"),
    ],
)
def test_refuses_what_does_not_fit(position: int, wrong: Tensor | None, named: str) -> None:
    arguments: list[Tensor | None] = list(draw((2, 3), torch.float32, torch.float32, guided=True))
    arguments[position] = wrong
    with pytest.raises(ValueError, match=named):
        ops.guidance_step(*arguments)  # type: ignore[arg-type]


def test_is_registered_with_torch() -> None:
    arguments = draw((2, 3), torch.float32, torch.float16, guided=True)
    torch.library.opcheck(torch.ops.darkroom.guidance_step.default, arguments)
    meta = [argument.to("meta") if argument is not None else None for argument in arguments]
    assert ops.guidance_step(*meta).shape == (2, 3)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def compiler_cache(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One cache for all builds of this session: the first takes seconds, the others a tenth of one."""
    directory = str(tmp_path_factory.mktemp("zig"))
    return {"ZIG_GLOBAL_CACHE_DIR": directory, "ZIG_LOCAL_CACHE_DIR": directory}


@pytest.mark.parametrize("shape", [(3, 7), (5, 3, 8), (4, 16, 64)], ids=str)
@pytest.mark.parametrize("dtypes", shapes.DTYPE_PAIRS, ids=str)
@pytest.mark.parametrize("guided", [False, True])
def test_source_run_on_the_cpu_gives_the_references_bits(
    shape: tuple[int, ...],
    dtypes: tuple[torch.dtype, torch.dtype],
    guided: bool,
    tmp_path: Path,
    compiler_cache: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in compiler_cache.items():
        monkeypatch.setenv(name, value)
    x, v_pos, v_neg, *per_row = arguments = draw(shape, *dtypes, guided=guided)
    if v_neg is not None:
        v_neg[-1] = torch.nan  # guidance is 1 there: it must not be read
    row_elements = x.numel() // shape[0]
    vector = launch.vector_elements(row_elements, [x, v_pos])
    macros = launch.defines(
        x_dtype=x.dtype, v_dtype=v_pos.dtype, row_elements=row_elements, vector=vector, guided=guided
    )
    run = emulate.compile(launch.SOURCE_PATH, kernel="guidance_step", defines=macros, directory=tmp_path)
    poisoned = testing.poison_like(x)
    run(poisoned.out, x, v_pos, v_neg, *per_row, x.numel() // vector, grid=2, block=3)  # several turns of the loop
    exact = testing.Tolerance(relative=0.0, absolute=0.0)
    assert testing.difference(poisoned, KERNEL.reference(*arguments), exact) == ""


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("dtypes", shapes.DTYPE_PAIRS, ids=str)
@pytest.mark.parametrize("guided", [False, True])
def test_compiles(arch: str, dtypes: tuple[torch.dtype, torch.dtype], guided: bool, tmp_path: Path) -> None:
    for row_elements, vector in ((4096 * 64, 16 // dtypes[1].itemsize), (7, 1), (2**33, 8)):
        macros = launch.defines(
            x_dtype=dtypes[0], v_dtype=dtypes[1], row_elements=row_elements, vector=vector, guided=guided
        )
        cubin = nvrtc.compile(launch.SOURCE_PATH, arch=arch, defines=macros)
        assert cubin.startswith(b"\x7fELF")
        assert b".text.guidance_step" in cubin


def test_vectors_need_alignment_and_whole_rows() -> None:
    whole = torch.randn(65, dtype=torch.float16)
    assert launch.vector_elements(64, [whole[:64]]) == 8
    assert launch.vector_elements(64, [whole[:64], whole[:64].float()]) == 8
    assert launch.vector_elements(64, [whole[:64].float()]) == 4
    assert launch.vector_elements(63, [whole[:63]]) == 1
    assert launch.vector_elements(64, [whole[1:]]) == 1


def test_cpu_tensors_take_the_reference() -> None:
    assert launch.plan(*draw((2, 8), torch.float32, torch.float32, guided=True)) is None


@needs_gpu
@needs_nvrtc
@pytest.mark.parametrize("shape", shapes.TEST_SHAPES, ids=str)
@pytest.mark.parametrize("dtypes", shapes.DTYPE_PAIRS, ids=str)
@pytest.mark.parametrize("guided", [False, True])
def test_kernel_agrees_with_reference(
    shape: tuple[int, ...], dtypes: tuple[torch.dtype, torch.dtype], guided: bool
) -> None:
    arguments = draw(shape, *dtypes, guided=guided, device="cuda")
    plan = launch.plan(*arguments)
    assert plan is not None
    poisoned = testing.poison_like(arguments[0])
    launch.launch(plan, poisoned.out, *arguments)
    expected = KERNEL.reference(*arguments)
    assert not testing.difference(poisoned, expected, shapes.TOLERANCES[expected.dtype])


@needs_gpu
@needs_nvrtc
def test_graph_replays_with_new_sigmas() -> None:
    dispatch.forget()
    arguments = draw((2, 16, 64), torch.float32, torch.bfloat16, guided=True, device="cuda")
    ops.guidance_step(*arguments)
    assert all(verdict.admitted for verdict in dispatch.verdicts().values())
    assert dispatch.verdicts()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = ops.guidance_step(*arguments)
    arguments[3].mul_(0.5)
    graph.replay()
    assert torch.equal(out, KERNEL.reference(*arguments))
