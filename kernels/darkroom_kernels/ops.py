"""The operations that Darkroom's kernels give, one per kernel folder.

In: torch tensors on any device. Out: torch tensors. Next: each folder's `__init__` checks the shapes and `dispatch` chooses
between the kernel and its reference. A caller writes `from darkroom_kernels import ops` and `ops.guidance_step(...)`.
"""

from darkroom_kernels.guidance_step import guidance_step

__all__ = ["guidance_step"]
