import io

import numpy as np
import PIL.Image
import pytest
import torch

from darkroom.model_runner.engine import encode, errors


def test_a_png_holds_the_picture() -> None:
    picture = torch.zeros(3, 2, 5)
    picture[0, 0, 4] = 1.0
    picture[1, 1, 0] = 0.5
    image = PIL.Image.open(io.BytesIO(encode.png(picture)))
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (5, 2))
    assert image.getpixel((4, 0)) == (255, 0, 0)
    assert image.getpixel((0, 1)) == (0, 128, 0)


def test_values_beyond_white_and_black_are_clamped() -> None:
    picture = torch.stack([torch.full((2, 2), value) for value in (-0.5, 1.5, 0.25)])
    assert np.asarray(PIL.Image.open(io.BytesIO(encode.png(picture)))).tolist() == [[[0, 255, 64]] * 2] * 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_no_picture(value: float) -> None:
    picture = torch.zeros(3, 4, 4)
    picture[2, 3, 3] = value
    with pytest.raises(errors.NotFinite):
        encode.png(picture)
