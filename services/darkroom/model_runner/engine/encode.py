"""What a family decoded, as files.

In: a picture, a video's frames or a sound, as tensors of floats. Out: an `Output`, whose bytes are a PNG, an MP4 (H.264) or
a FLAC. Tensors are rounded to integers on the device where they lie, and only those cross to the host. Next: `finishing` puts
outputs into `Finished`.
"""

import fractions
import io

import av
import numpy as np
import PIL.Image
import torch
from av.video.reformatter import ColorRange, Colorspace
from torch import Tensor

from darkroom.model_runner.engine import errors
from darkroom.model_runner.engine.job import Medium, Output

PNG = "image/png"
MP4 = "video/mp4"
FLAC = "audio/flac"

_BT709 = 1  # matrix, primaries and transfer of HD video, as MP4 numbers them
_MP4_INDEX_BYTES, _MP4_INDEX_FRAME_BYTES = 2048, 32  # measured: 800 and 4; at worst about 24 a frame
_X264 = {"crf": "17", "preset": "fast", "threads": "4"}  # a fixed count of threads, since x264's bytes depend on it


def output(
    medium: Medium, decoded: Tensor, *, seed: int, frames_per_second: int = 0, samples_per_second: int = 0
) -> Output:
    """Make the file of one decoded picture, video or sound; NotFinite if there is NaN or infinity in it."""
    if medium == "image":
        height, width = decoded.shape[-2:]
        return Output(png(decoded), PNG, width, height, seed)
    if medium == "video":
        frames, _, height, width = decoded.shape
        duration_us = frames * 1_000_000 // frames_per_second
        data = mp4(decoded, frames_per_second=frames_per_second)
        return Output(data, MP4, width, height, seed, frames=frames, duration_us=duration_us)
    data = flac(decoded, samples_per_second=samples_per_second)
    return Output(data, FLAC, 0, 0, seed, duration_us=decoded.shape[-1] * 1_000_000 // samples_per_second)


def png(picture: Tensor) -> bytes:
    """Return `picture`, [3, height, width] nominally 0 to 1, as an 8-bit RGB PNG, rounded and clamped as diffusers does."""
    file = io.BytesIO()
    PIL.Image.fromarray(_pixels(picture[None])[0]).save(file, format="PNG")
    return file.getvalue()


def mp4(frames: Tensor, *, frames_per_second: int) -> bytes:
    """Return `frames`, [frames, 3, height, width] nominally 0 to 1 with even sides, as H.264 in BT.709, ready to stream."""
    pixels = _pixels(frames)
    file = io.BytesIO()
    # The index goes first, so that players can begin before the end is there; faststart would need a file with a name.
    index_bytes_max = _MP4_INDEX_BYTES + _MP4_INDEX_FRAME_BYTES * len(pixels)
    with av.open(file, "w", format="mp4", options={"moov_size": str(index_bytes_max)}) as container:
        stream = container.add_stream("libx264", rate=frames_per_second, options=_X264)
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = ColorRange.MPEG
        for index, picture in enumerate(pixels):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            frame.pts, frame.time_base = index, fractions.Fraction(1, frames_per_second)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def flac(sound: Tensor, *, samples_per_second: int) -> bytes:
    """Return `sound`, [1 or 2 channels, samples] nominally -1 to 1, as a 16-bit FLAC."""
    _check_finite(sound)
    samples = sound.float().clamp(-1, 1).mul(32767).round().to(torch.int16).cpu().numpy()
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


def _pixels(frames: Tensor) -> np.ndarray:
    """Round to bytes, [frames, height, width, 3]."""
    _check_finite(frames)
    return frames.float().clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def _check_finite(decoded: Tensor) -> None:
    if not torch.isfinite(decoded).all():
        raise errors.NotFinite("the model produced numbers that are no media (NaN or infinity)")
