"""What `guidance_step.cu` must compute, in plain torch.

In: the arguments of `ops.guidance_step`. Out: the next latents. It is the meaning of the kernel, the CPU
implementation, the fallback, and the judge that `dispatch` holds the kernel against.
"""

from torch import Tensor, where


def guidance_step(
    x: Tensor, v_pos: Tensor, v_neg: Tensor | None, sigma: Tensor, sigma_next: Tensor, guidance: Tensor | None
) -> Tensor:
    """Return `x + (sigma_next - sigma) * v`, computed in float32 and rounded once to the dtype of `x`.

    `v` is `v_neg + guidance * (v_pos - v_neg)`; without guidance, or in a row whose guidance is exactly 1, it is `v_pos`.
    """
    per_row = (-1, *(1,) * (x.dim() - 1))
    velocity = v_pos.float()
    if v_neg is not None and guidance is not None:
        scale = guidance.view(per_row)
        base = v_neg.float()
        velocity = where(scale == 1.0, velocity, (velocity - base).mul_(scale).add_(base))
    return (velocity * (sigma_next - sigma).view(per_row)).add_(x.float()).to(x.dtype)
