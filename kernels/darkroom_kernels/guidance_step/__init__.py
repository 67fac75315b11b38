"""Classifier-free guidance combine + flow-Euler update, per row: the operation, its checks and its registration.

In: latents and predictions of a batch whose rows are at different steps. Out: the next latents. The shapes are checked here,
once; `launch` and `reference` trust them. Next: `dispatch` chooses between the two.
"""

import torch
from torch import Tensor

from darkroom_kernels import dispatch
from darkroom_kernels.guidance_step import launch, reference, shapes


def guidance_step(
    x: Tensor, v_pos: Tensor, v_neg: Tensor | None, sigma: Tensor, sigma_next: Tensor, guidance: Tensor | None
) -> Tensor:
    """Return `x + (sigma_next - sigma) * (v_neg + guidance * (v_pos - v_neg))`, each row with its own numbers.

    `x`: latents [B, ...], float32, float16 or bfloat16; the result has its dtype. `v_pos`, `v_neg`: predictions with the
    shape of `x` and one dtype. `sigma`, `sigma_next`, `guidance`: float32 [B], on the device of `x`. `v_neg` and `guidance`
    are both given or both None (no guidance: `v_pos` is the velocity). A row whose guidance is exactly 1 takes `v_pos`, bit
    for bit, and ignores its `v_neg`, so rows with and without guidance share a batch. Computed in float32, never
    synchronises. Raises ValueError naming the argument that does not fit.
    """
    _check(x, v_pos, v_neg, sigma, sigma_next, guidance)
    result: Tensor = _operation(x, v_pos, v_neg, sigma, sigma_next, guidance)
    return result


def _allocate(
    x: Tensor, v_pos: Tensor, v_neg: Tensor | None, sigma: Tensor, sigma_next: Tensor, guidance: Tensor | None
) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


KERNEL = dispatch.Kernel(
    name="guidance_step",
    plan=launch.plan,
    launch=launch.launch,
    allocate=_allocate,
    reference=reference.guidance_step,
    tolerances=shapes.TOLERANCES,
)


@torch.library.custom_op("darkroom::guidance_step", mutates_args=())
def _operation(
    x: Tensor, v_pos: Tensor, v_neg: Tensor | None, sigma: Tensor, sigma_next: Tensor, guidance: Tensor | None
) -> Tensor:
    return dispatch.run(KERNEL, x, v_pos, v_neg, sigma, sigma_next, guidance)


_operation.register_fake(_allocate)


def _check(
    x: Tensor, v_pos: Tensor, v_neg: Tensor | None, sigma: Tensor, sigma_next: Tensor, guidance: Tensor | None
) -> None:
    if x.dim() < 1 or x.dtype not in shapes.TOLERANCES:
        raise ValueError(
            f"x must be float32, float16 or bfloat16 with a batch dimension, not {x.dtype} {tuple(x.shape)}"
        )
    if (v_neg is None) != (guidance is None):
        raise ValueError("v_neg and guidance must both be given, or neither")
    for name, tensor in (("v_pos", v_pos), ("v_neg", v_neg)):
        if tensor is not None and (tensor.shape != x.shape or tensor.dtype != v_pos.dtype or tensor.device != x.device):
            raise ValueError(f"{name} must have the shape and device of x and the dtype of v_pos")
    for name, tensor in (("sigma", sigma), ("sigma_next", sigma_next), ("guidance", guidance)):
        if tensor is not None and (
            tensor.shape != x.shape[:1] or tensor.dtype != torch.float32 or tensor.device != x.device
        ):
            raise ValueError(f"{name} must be float32 of shape ({x.shape[0]},) on the device of x")
