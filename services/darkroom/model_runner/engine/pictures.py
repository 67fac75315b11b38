"""Pictures that a generation starts from.

In: the bytes of a file as a tenant sent it, and the size that the denoiser needs. Out: pixels as diffusers'
`VaeImageProcessor` hands them to a VAE, and the latents that it makes of them. Next: `reading` has files read on other
threads; families noise or append the latents.
"""

import io
from collections.abc import Callable
from typing import TypeAlias

import PIL.Image
import PIL.ImageOps
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from darkroom import image_files
from darkroom.model_runner.engine import errors
from darkroom.model_runner.engine.job import Job, Picture

FORMATS = ("PNG", "JPEG", "WEBP")
"""What Pillow may try to read. Others (EPS among them) start programs or are rarely looked at."""
Size: TypeAlias = tuple[int, int]
"""Width and height."""
Sizing: TypeAlias = Callable[[Job, Size], Size]
"""In what size a family wants to be given a job's picture of this size."""

_PICTURES = VaeImageProcessor(vae_scale_factor=1)
_MASKS = VaeImageProcessor(vae_scale_factor=1, do_normalize=False, do_binarize=True, do_convert_grayscale=True)


def read(data: Picture, *, field: str) -> PIL.Image.Image:
    """Return the picture of a file, in RGB and upright; BadRequest, naming `field`, if it is none or too large.

    One that was read before is returned as it is.
    """
    if isinstance(data, PIL.Image.Image):
        return data
    side_max, pixels_max = image_files.SOURCE_SIDE_MAX, image_files.SOURCE_PIXELS_MAX
    try:
        with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if picture.width * picture.height > pixels_max:
                raise errors.BadRequest(f"{field}: {picture.width}x{picture.height} is more than {pixels_max} pixels")
            if max(picture.size) > side_max:
                raise errors.BadRequest(f"{field}: {picture.width}x{picture.height} has a side above {side_max} pixels")
            PIL.ImageOps.exif_transpose(picture, in_place=True)
            return picture if picture.mode == "RGB" else picture.convert("RGB")
    except (errors.BadRequest, MemoryError):
        raise
    except Exception as error:  # Pillow lets out whatever its parts meet, struct.error at broken EXIF for one
        raise errors.BadRequest(f"{field}: not a readable picture ({', '.join(FORMATS)})") from error


def sized(picture: PIL.Image.Image, size: Size) -> PIL.Image.Image:
    """Return it resized as `pixels` and `mask` resize, which then have nothing left to do."""
    return picture if picture.size == size else picture.resize(size, PIL.Image.Resampling.LANCZOS)


def as_asked(job: Job, size: Size) -> Size:
    """Want pictures in the size of what is to be made."""
    return job.width, job.height


def as_sent(job: Job, size: Size) -> Size:
    """Want pictures as they are."""
    return size


def pixels(picture: PIL.Image.Image, *, width: int, height: int) -> Tensor:
    """Return it resized (Lanczos), float32 [1, 3, height, width], -1 to 1."""
    resized: Tensor = _PICTURES.preprocess(picture, height, width)
    return resized


def mask(picture: PIL.Image.Image, *, width: int, height: int) -> Tensor:
    """Return it resized and binarised, float32 [1, 1, height, width]: 1 is painted anew, 0 stays."""
    resized: Tensor = _MASKS.preprocess(picture, height, width)
    return resized


def sample(distribution: DiagonalGaussianDistribution, generator: torch.Generator) -> Tensor:
    """Draw latents from what a VAE said of a picture, float32: on the CPU, so that a seed means the same everywhere."""
    noise = torch.randn(distribution.mean.shape, generator=generator).to(distribution.mean.device)
    drawn: Tensor = distribution.mean.float() + distribution.std.float() * noise
    return drawn


def first_step(job: Job, *, strength: float) -> int:
    """Return the step at which a job's picture enters a flow-matching model, as diffusers' pipelines do; 0 if it has none.

    `strength`, how much of it goes, 0 to 1, holds where the job names none; BadRequest if it leaves no step to take.
    """
    if job.source_image is None:
        return 0
    strength = strength if job.strength is None else job.strength
    first = int(max(job.steps - min(job.steps * strength, job.steps), 0))
    if first >= job.steps:
        raise errors.BadRequest(f"strength: {strength} leaves no step to take")
    return first
