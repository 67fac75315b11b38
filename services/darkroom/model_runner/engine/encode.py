"""Pictures as files.

In: a decoded picture, [3, height, width], nominally 0 to 1. Out: the bytes of a PNG. Next: `step_loop` puts them into
`Finished`.
"""

import io

import PIL.Image
import torch
from torch import Tensor

from darkroom.model_runner.engine import errors

PNG = "image/png"


def png(picture: Tensor) -> bytes:
    """Return `picture` as an 8-bit RGB PNG, rounded and clamped as diffusers does; NotFinite for NaN or infinity."""
    if not torch.isfinite(picture).all():
        raise errors.NotFinite("the model produced numbers that are no picture (NaN or infinity)")
    bytes_hwc = picture.float().clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0)
    file = io.BytesIO()
    PIL.Image.fromarray(bytes_hwc.cpu().numpy()).save(file, format="PNG")
    return file.getvalue()
