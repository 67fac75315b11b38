"""Shapes and tolerances of `guidance_step`: those that prove it are apart from those that time it.

Next: `test_guidance_step.py` walks the first, `darkroom_kernels.bench` the second.
"""

import torch

from darkroom_kernels.testing import Tolerance

TEST_SHAPES: tuple[tuple[int, ...], ...] = (
    (1, 1),
    (3, 7),  # odd rows: one element per thread
    (5, 3, 8),  # rows of a few whole vectors
    (2, 4, 9, 13),
    (4, 16, 64),  # pocket-image: 16 tokens
    (7, 4096, 64),  # more than one turn of the grid-stride loop on a small GPU
)
"""Latents [batch, ...]: prime, odd and vector-sized rows, one to four dimensions behind the batch."""

BENCHMARK_SHAPES: dict[str, tuple[int, ...]] = {
    "flux 1024x1024": (1, 4096, 64),
    "flux 1024x1024, batch 4": (4, 4096, 64),
    "sdxl 1024x1024, batch 4": (4, 4, 128, 128),
    "wan 832x480x81": (1, 16, 21, 60, 104),
    "wan 1280x720x81, batch 2": (2, 16, 21, 90, 160),
}
"""Latents of the models that Darkroom serves, by name."""

DTYPE_PAIRS: tuple[tuple[torch.dtype, torch.dtype], ...] = (
    (torch.float32, torch.float32),
    (torch.float32, torch.float16),
    (torch.float32, torch.bfloat16),
    (torch.float16, torch.float16),
    (torch.bfloat16, torch.bfloat16),
)
"""The (latents, predictions) dtypes that the kernel takes; any other pair runs the reference."""

TOLERANCES: dict[torch.dtype, Tolerance] = {
    torch.float32: Tolerance(relative=1e-6, absolute=1e-5),
    torch.float16: Tolerance(relative=2**-10, absolute=1e-5),
    torch.bfloat16: Tolerance(relative=2**-7, absolute=1e-5),
}
"""By dtype of the output. The kernel means to be bit-equal; one unit in the last place is what we refuse to argue about."""
