import io
from collections.abc import Callable

import av
import numpy as np
import PIL.Image
import pytest
import torch

from darkroom.model_runner.engine import encode, errors


def png(picture: torch.Tensor) -> bytes:
    return encode.output("image", encode.rounded("image", picture), seed=0).data


def mp4(frames: torch.Tensor, *, frames_per_second: int) -> bytes:
    made = encode.rounded("video", frames)
    return encode.output("video", made, seed=0, frames_per_second=frames_per_second).data


def flac(sound: torch.Tensor, *, samples_per_second: int) -> bytes:
    made = encode.rounded("audio", sound)
    return encode.output("audio", made, seed=0, samples_per_second=samples_per_second).data


def test_a_png_holds_the_picture() -> None:
    picture = torch.zeros(3, 2, 5)
    picture[0, 0, 4] = 1.0
    picture[1, 1, 0] = 0.5
    image = PIL.Image.open(io.BytesIO(png(picture)))
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (5, 2))
    assert image.getpixel((4, 0)) == (255, 0, 0)
    assert image.getpixel((0, 1)) == (0, 128, 0)


def test_values_beyond_white_and_black_are_clamped() -> None:
    picture = torch.stack([torch.full((2, 2), value) for value in (-0.5, 1.5, 0.25)])
    assert np.asarray(PIL.Image.open(io.BytesIO(png(picture)))).tolist() == [[[0, 255, 64]] * 2] * 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_no_picture(value: float) -> None:
    picture = torch.zeros(3, 4, 4)
    picture[2, 3, 3] = value
    with pytest.raises(errors.NotFinite):
        png(picture)


def test_an_mp4_holds_the_frames_in_h264_with_its_index_first() -> None:
    frames = torch.zeros(9, 3, 32, 48)
    frames[:, 0] = 0.9
    for index in range(9):
        frames[index, 1, :, 4 * index : 4 * index + 16] = 0.7
    data = mp4(frames, frames_per_second=8)
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        seen = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert (stream.codec_context.name, stream.codec_context.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 8)
    assert seen.shape == (9, 32, 48, 3)
    assert np.abs(seen / 255 - frames.permute(0, 2, 3, 1).numpy()).mean() < 0.02
    assert data.find(b"moov") < data.find(b"mdat")


@pytest.mark.parametrize("count", [1, 2, 300])
def test_an_mp4_has_room_for_the_index_of_any_number_of_frames(count: int) -> None:
    data = mp4(torch.rand(count, 3, 16, 16), frames_per_second=24)
    with av.open(io.BytesIO(data)) as container:
        assert sum(1 for _ in container.decode(video=0)) == count
        assert container.duration == pytest.approx(count / 24 * av.time_base, rel=0.01)


def test_the_same_frames_are_the_same_bytes() -> None:
    frames = torch.rand(20, 3, 64, 64)
    assert mp4(frames, frames_per_second=8) == mp4(frames, frames_per_second=8)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_flac_holds_the_samples(channels: int) -> None:
    sound = torch.randn(channels, 50_000) * 0.4
    data = flac(sound, samples_per_second=44_100)
    with av.open(io.BytesIO(data)) as container:
        assert container.duration == pytest.approx(50_000 / 44_100 * av.time_base, abs=1)
        heard = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
    assert (sound.clamp(-1, 1).mul(32767).round().numpy() == heard.reshape(-1, channels).T).all()


def test_an_output_tells_what_the_file_is() -> None:
    picture = encode.output("image", encode.rounded("image", torch.zeros(3, 8, 16)), seed=5)
    assert picture[1:7] == ("image/png", 16, 8, 5, 1, 0)
    video = encode.output("video", encode.rounded("video", torch.zeros(9, 3, 16, 32)), seed=5, frames_per_second=4)
    assert video[1:7] == ("video/mp4", 32, 16, 5, 9, 2_250_000)
    sound = encode.output("audio", encode.rounded("audio", torch.zeros(2, 4410)), seed=5, samples_per_second=44_100)
    assert sound[1:7] == ("audio/flac", 0, 0, 5, 1, 100_000)


@pytest.mark.parametrize(
    "write",
    [
        lambda values: mp4(values.expand(2, 3, 16, 16), frames_per_second=8),
        lambda values: flac(values.expand(2, 16), samples_per_second=8000),
    ],
)
def test_what_is_no_number_is_no_media(write: Callable[[torch.Tensor], bytes]) -> None:
    with pytest.raises(errors.NotFinite):
        write(torch.tensor(float("nan")))
