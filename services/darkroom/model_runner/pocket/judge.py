"""Says whether a picture shows what its prompt asks for; the ground truth for quality everywhere.

In: a prompt and a picture. Out: a verdict with its reasons. Steps: label each pixel by the nearest of the world's
colours; the commonest is the background; what is left falls into connected parts; each part gets the colour that
explains its pixels as mixtures with the background, and the shape and size whose stencil overlaps it best; then colours,
shapes, sizes, number and relation are held against the prompt. numpy only, and the same answer everywhere.
Next: `bench` counts verdicts.
"""

import itertools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import PIL.Image

from darkroom.model_runner.pocket import scenes

Mask = npt.NDArray[np.bool_]
Shares = npt.NDArray[np.float32]

BACKGROUND_SHARE_MIN = 0.6
"""Two large squares leave 79 % of the picture to the background."""

SPECK_PIXELS_MAX = 4
"""A connected part of at most this many pixels is dirt, not a thing; the smallest thing (a small star) has 50."""

DIRT_PIXELS_MAX = 12
"""More dirt than this in all, and the picture is not the scene."""

STRAY_MAX = 48.0
"""Mean distance, in 8-bit RGB, that a part's pixels may have from mixtures of its colour and the background."""

OVERLAP_MIN = 0.65
"""Intersection over union of a part and its stencil; a shift by half a pixel costs a small star 0.27."""

NAMES = tuple(scenes.COLOURS)
PALETTE = np.array(list(scenes.COLOURS.values()), dtype=np.float32)


class Verdict(NamedTuple):
    """Whether the picture is right, and what is wrong with it otherwise."""

    ok: bool
    reasons: tuple[str, ...]


class Part(NamedTuple):
    """A connected part of the foreground, read as a thing: its centre (x, y) in pixels and how well the stencil fits."""

    thing: scenes.Thing
    centre: tuple[float, float]
    overlap: float
    stray: float


class Reading(NamedTuple):
    """What a picture shows: its background, its parts, and the pixels that are neither."""

    background: str
    background_share: float
    parts: tuple[Part, ...]
    dirt_pixels: int


def judge(prompt: str, image: PIL.Image.Image | scenes.Pixels) -> Verdict:
    """Hold a picture (RGB, any size; it is read at SIZE_PX) against its prompt; ValueError if the prompt is no scene."""
    scene, reading = scenes.parse(prompt), read(image)
    reasons = [*_background_faults(scene, reading), *_part_faults(reading)]
    reasons += _scene_faults(scene, reading)
    return Verdict(ok=not reasons, reasons=tuple(reasons))


def read(image: PIL.Image.Image | scenes.Pixels) -> Reading:
    """Read a picture into background and parts, whatever the prompt was."""
    pixels = _pixels(image)
    labels = np.square(pixels[:, :, None] - PALETTE).sum(axis=-1).argmin(axis=-1)
    background = int(np.bincount(labels.ravel(), minlength=len(NAMES)).argmax())
    masks = connected(labels != background)
    solid = [mask for mask in masks if mask.sum() > SPECK_PIXELS_MAX]
    return Reading(
        background=NAMES[background],
        background_share=float((labels == background).mean()),
        parts=tuple(_read_part(pixels, mask, background) for mask in solid[:4]),
        dirt_pixels=int(sum(mask.sum() for mask in masks) - sum(mask.sum() for mask in solid[:4])),
    )


def _pixels(image: PIL.Image.Image | scenes.Pixels) -> Shares:
    picture = image if isinstance(image, PIL.Image.Image) else PIL.Image.fromarray(image)
    side = (scenes.SIZE_PX, scenes.SIZE_PX)
    if picture.size != side:
        picture = picture.resize(side, PIL.Image.Resampling.BOX)
    return np.asarray(picture.convert("RGB"), dtype=np.float32)


def connected(foreground: Mask) -> list[Mask]:
    """Split a mask into its parts (neighbours also by the corner), largest first."""
    left, parts = foreground.copy(), list[Mask]()
    while left.any():
        part = np.zeros_like(left)
        part[np.unravel_index(left.argmax(), left.shape)] = True
        while (grown := _grow(part) & left).sum() > part.sum():
            part = grown
        left &= ~part
        parts.append(part)
    return sorted(parts, key=lambda each: -int(each.sum()))


def _grow(mask: Mask) -> Mask:
    """Add each pixel's eight neighbours."""
    padded = np.pad(mask, 1)
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).any(axis=(2, 3)), dtype=np.bool_)


def _read_part(pixels: Shares, mask: Mask, background: int) -> Part:
    around = _grow(mask)
    strays = [_mixture(pixels[around], background, colour)[1].mean() for colour in range(len(NAMES))]
    colour = int(np.argmin(strays))
    cover = np.zeros(mask.shape, dtype=np.float32)
    cover[around] = _mixture(pixels[around], background, colour)[0]
    shape, size, centre, overlap = max(_fits(cover), key=lambda fit: fit[3])
    return Part(scenes.Thing(NAMES[colour], shape, size), centre, overlap, float(strays[colour]))


def _mixture(pixels: Shares, background: int, colour: int) -> tuple[Shares, Shares]:
    """Explain pixels (N x 3) as mixtures: the share of the colour in 0..1, and the distance that is left."""
    way = PALETTE[colour] - PALETTE[background]
    offset = pixels - PALETTE[background]
    share = np.clip(offset @ way / max(float(way @ way), 1.0), 0.0, 1.0)
    return share, np.linalg.norm(offset - share[:, None] * way, axis=1)


def _fits(cover: Shares) -> list[tuple[str, str, tuple[float, float], float]]:
    """Every shape and size laid over a part: (shape, size, centre, overlap) at the best of nine whole-pixel shifts."""
    edge = 16
    padded = np.pad(cover, edge)
    middle_x, middle_y = _middle(cover)
    fits = []
    for shape, (size, radius_px) in itertools.product(scenes.SHAPES, scenes.RADII_PX.items()):
        stencil = scenes.stencil(shape, radius_px)
        off_x, off_y = _middle(stencil)
        left, top = round(middle_x - off_x) + edge, round(middle_y - off_y) + edge
        side = stencil.shape[0]
        overlaps = {
            (x, y): _overlap(padded[y : y + side, x : x + side], stencil, float(cover.sum()))
            for x in range(max(left - 1, 0), left + 2)
            for y in range(max(top - 1, 0), top + 2)
            if padded[y : y + side, x : x + side].shape == stencil.shape
        }
        fits.append((shape, size, (middle_x, middle_y), max(overlaps.values(), default=0.0)))
    return fits


def _middle(cover: Shares) -> tuple[float, float]:
    """Centre of mass (x, y)."""
    total = max(float(cover.sum()), 1e-6)
    return float(cover.sum(axis=0) @ np.arange(cover.shape[1])) / total, float(
        cover.sum(axis=1) @ np.arange(cover.shape[0])
    ) / total


def _overlap(window: Shares, stencil: Shares, mass: float) -> float:
    """Soft intersection over union; `mass` counts also what lies outside the window."""
    common = float(np.minimum(window, stencil).sum())
    return common / (mass + float(stencil.sum()) - common)


def _background_faults(scene: scenes.Scene, reading: Reading) -> list[str]:
    faults = []
    if reading.background != scene.background:
        faults.append(f"the background is {reading.background}, not {scene.background}")
    if reading.background_share < BACKGROUND_SHARE_MIN:
        faults.append(f"the background covers only {reading.background_share:.0%}")
    if reading.dirt_pixels > DIRT_PIXELS_MAX:
        faults.append(f"{reading.dirt_pixels} pixels belong to nothing")
    return faults


def _part_faults(reading: Reading) -> list[str]:
    faults = []
    for part in reading.parts:
        name = " ".join(reversed(part.thing))
        if part.overlap < OVERLAP_MIN:
            faults.append(f"the part nearest to a {name} overlaps it by {part.overlap:.2f}")
        if part.stray > STRAY_MAX:
            faults.append(f"the part nearest to a {name} is not of one colour")
    return faults


def _scene_faults(scene: scenes.Scene, reading: Reading) -> list[str]:
    shown = [part.thing for part in reading.parts]
    if sorted(shown) != sorted(scene.things):
        return [f"it shows {_list(shown)}, not {_list(scene.things)}"]
    if len(shown) < 2:
        return []
    first, second = (reading.parts[shown.index(thing)].centre for thing in scene.things)
    off_x, off_y = first[0] - second[0], first[1] - second[1]
    right, down = scenes.RELATIONS[scene.relation]
    along, across = (off_x * right, off_y) if right else (off_y * down, off_x)
    return [] if along > abs(across) else [f"the first is not {scene.relation} the second"]


def _list(things: list[scenes.Thing] | tuple[scenes.Thing, ...]) -> str:
    return " and ".join(f"a {each.size} {each.colour} {each.shape}" for each in things) or "nothing"
