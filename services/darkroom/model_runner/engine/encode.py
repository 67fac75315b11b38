"""What a family decoded, as files.

In: a picture, a video's frames or a sound, as tensors of floats. Out: an `Output`, whose bytes are a PNG, an MP4 (H.264) or
a FLAC. `rounded` is the device's part: integers are made where the floats lie, and only they cross to the host, so that
nothing decoded is held on the device while a file is made. Next: `finishing` puts outputs into `Finished`.
"""

import fractions
import io
from typing import NamedTuple

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from darkroom.model_runner.engine import errors
from darkroom.model_runner.engine.job import Medium, Output

PNG = "image/png"
MP4 = "video/mp4"
FLAC = "audio/flac"

_BT709 = 1  # matrix, primaries and transfer of HD video, as MP4 numbers them
_MP4_INDEX_BYTES, _MP4_INDEX_FRAME_BYTES = 2048, 32  # measured: 800 and 4; at worst about 24 a frame
_X264 = {"crf": "17", "preset": "fast", "threads": "4"}  # a fixed count of threads, since x264's bytes depend on it


class Rounded(NamedTuple):
    """Media on the host."""

    values: np.ndarray
    """Bytes [frames, height, width, 3] of a video, or of a picture as its only frame; int16 [channels, samples] of a sound."""
    is_finite: bool
    """Whether there was no NaN or infinity."""


def rounded(medium: Medium, decoded: Tensor) -> Rounded:
    """Return what a family decoded as integers on the host, rounded and clamped as diffusers does; waits for the device."""
    is_finite = bool(torch.isfinite(decoded).all())
    if medium == "audio":
        samples = decoded.float().clamp(-1, 1).mul_(32767).round_().to(torch.int16)
        return Rounded(samples.cpu().numpy(), is_finite)
    frames = decoded if medium == "video" else decoded[None]
    pixels = frames.float().clamp(0, 1).mul_(255).round_().to(torch.uint8)
    return Rounded(pixels.permute(0, 2, 3, 1).cpu().numpy(), is_finite)


def output(
    medium: Medium, made: Rounded, *, seed: int, frames_per_second: int = 0, samples_per_second: int = 0
) -> Output:
    """Make the file of one picture, video or sound; NotFinite if there was NaN or infinity in it."""
    if not made.is_finite:
        raise errors.NotFinite("the model produced numbers that are no media (NaN or infinity)")
    if medium == "audio":
        data = flac(made.values, samples_per_second=samples_per_second)
        duration_us = made.values.shape[-1] * 1_000_000 // samples_per_second
        return Output(data, FLAC, 0, 0, seed, duration_us=duration_us)
    frames, height, width, _ = made.values.shape
    if medium == "image":
        return Output(png(made.values[0]), PNG, width, height, seed)
    duration_us = frames * 1_000_000 // frames_per_second
    data = mp4(made.values, frames_per_second=frames_per_second)
    return Output(data, MP4, width, height, seed, frames=frames, duration_us=duration_us)


def png(picture: np.ndarray) -> bytes:
    """Return `picture`, bytes [height, width, 3], as an RGB PNG."""
    file = io.BytesIO()
    PIL.Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()


def mp4(frames: np.ndarray, *, frames_per_second: int) -> bytes:
    """Return `frames`, bytes [frames, height, width, 3] with even sides, as H.264 in BT.709, ready to stream."""
    import av  # here, and below: pictures need no FFmpeg
    from av.video.reformatter import ColorRange, Colorspace

    file = io.BytesIO()
    # The index goes first, so that players can begin before the end is there; faststart would need a file with a name.
    index_bytes_max = _MP4_INDEX_BYTES + _MP4_INDEX_FRAME_BYTES * len(frames)
    with av.open(file, "w", format="mp4", options={"moov_size": str(index_bytes_max)}) as container:
        stream = container.add_stream("libx264", rate=frames_per_second, options=_X264)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = ColorRange.MPEG
        for index, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            frame.pts, frame.time_base = index, fractions.Fraction(1, frames_per_second)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def flac(samples: np.ndarray, *, samples_per_second: int) -> bytes:
    """Return `samples`, int16 [1 or 2 channels, samples], as a FLAC."""
    import av

    layout = "stereo" if len(samples) == 2 else "mono"
    packed = np.ascontiguousarray(samples.T).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(packed, format="s16", layout=layout)
    frame.sample_rate = samples_per_second
    file = io.BytesIO()
    with av.open(file, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=samples_per_second, layout=layout, format="s16")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()
