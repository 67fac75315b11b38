"""Builds and launches `guidance_step.cu` on CUDA tensors.

In: the arguments of `ops.guidance_step`, already checked. Out: `out` filled on torch's current stream, with no
synchronisation and no host read, so that it can be captured in a CUDA graph. Next: `dispatch` compares and admits it.
"""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from darkroom_kernels import nvrtc
from darkroom_kernels.guidance_step.shapes import DTYPE_PAIRS

if TYPE_CHECKING:
    from cuda.core import Kernel

SOURCE_PATH = Path(__file__).with_name("guidance_step.cu")

_BLOCK_THREADS = 256
_BLOCKS_PER_SM = 8  # 2,048 threads: a full Ampere or Hopper multiprocessor; the loop in the kernel covers the rest
_VECTOR_BYTES = 16
_C_TYPES = {torch.float32: "float", torch.float16: "__half", torch.bfloat16: "__nv_bfloat16"}


class Plan(NamedTuple):
    """What one build serves, and on how many rows it was judged."""

    arch: str
    device_index: int
    rows: int
    row_elements: int
    vector: int
    x_dtype: torch.dtype
    v_dtype: torch.dtype
    guided: bool


def plan(
    x: Tensor, v_pos: Tensor, v_neg: Tensor | None, sigma: Tensor, sigma_next: Tensor, guidance: Tensor | None
) -> Plan | None:
    """Return what to build, or None where the reference must answer: not CUDA, other dtypes, strided or empty tensors."""
    tensors = [tensor for tensor in (x, v_pos, v_neg, sigma, sigma_next, guidance) if tensor is not None]
    if not (x.is_cuda and nvrtc.available() and x.numel()):
        return None
    if (x.dtype, v_pos.dtype) not in DTYPE_PAIRS or not all(tensor.is_contiguous() for tensor in tensors):
        return None
    major, minor = torch.cuda.get_device_capability(x.device)
    row_elements = x.numel() // x.shape[0]
    return Plan(
        arch=f"sm_{major}{minor}",
        device_index=x.device.index,
        rows=x.shape[0],
        row_elements=row_elements,
        vector=vector_elements(row_elements, [tensor for tensor in (x, v_pos, v_neg) if tensor is not None]),
        x_dtype=x.dtype,
        v_dtype=v_pos.dtype,
        guided=v_neg is not None,
    )


def vector_elements(row_elements: int, tensors: list[Tensor]) -> int:
    """Return how many elements a thread takes at once: 16 bytes of the narrowest dtype, or one where that cannot align."""
    width = _VECTOR_BYTES // min(tensor.element_size() for tensor in tensors)
    aligned = all(tensor.data_ptr() % _VECTOR_BYTES == 0 for tensor in tensors)
    return width if aligned and row_elements % width == 0 else 1


def defines(
    *, x_dtype: torch.dtype, v_dtype: torch.dtype, row_elements: int, vector: int, guided: bool
) -> dict[str, str]:
    """Return the macros that make a build of `guidance_step.cu`."""
    return {
        "X_TYPE": _C_TYPES[x_dtype],
        "V_TYPE": _C_TYPES[v_dtype],
        "ROW_ELEMENTS": f"{row_elements}LL",
        "VECTOR": str(vector),
        "GUIDED": str(int(guided)),
    }


def launch(
    plan: Plan,
    out: Tensor,
    x: Tensor,
    v_pos: Tensor,
    v_neg: Tensor | None,
    sigma: Tensor,
    sigma_next: Tensor,
    guidance: Tensor | None,
) -> None:
    """Fill `out` on the current stream of its device."""
    from cuda.core import Device, LaunchConfig, Stream
    from cuda.core import launch as launch_on

    vectors = x.numel() // plan.vector
    blocks_max = _BLOCKS_PER_SM * torch.cuda.get_device_properties(x.device).multi_processor_count
    blocks = min(-(-vectors // _BLOCK_THREADS), blocks_max)
    pointers = [0 if tensor is None else tensor.data_ptr() for tensor in (v_neg, guidance)]
    with torch.cuda.device(x.device):
        Device(plan.device_index).set_current()  # a thread that has only allocated has no current context yet
        launch_on(
            Stream.from_handle(torch.cuda.current_stream(x.device).cuda_stream),
            LaunchConfig(grid=blocks, block=_BLOCK_THREADS),
            _kernel(plan._replace(rows=0)),
            out.data_ptr(),
            x.data_ptr(),
            v_pos.data_ptr(),
            pointers[0],
            sigma.data_ptr(),
            sigma_next.data_ptr(),
            pointers[1],
            vectors,
        )


@functools.lru_cache(maxsize=1024)
def _kernel(build: Plan) -> "Kernel":
    from cuda.core import ObjectCode

    cubin = nvrtc.compile(
        SOURCE_PATH,
        arch=build.arch,
        defines=defines(
            x_dtype=build.x_dtype,
            v_dtype=build.v_dtype,
            row_elements=build.row_elements,
            vector=build.vector,
            guided=build.guided,
        ),
    )
    return ObjectCode.from_cubin(cubin).get_kernel("guidance_step")
