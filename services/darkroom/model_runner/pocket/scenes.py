"""The world that pocket-image knows: coloured shapes on a plain background, and the words for them.

In: nothing but seeds. Out: scenes (what is there), their prompts (how one asks for it), their pictures (what it looks
like) and which of them training may see. Next: `train` learns from these, `judge` reads pictures back into them.
The module needs numpy only, so the judge and the command can use it without torch.
"""

import functools
import hashlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

SIZE_PX = 64
"""Width and height of every picture."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 35, 40),
    "green": (35, 165, 60),
    "blue": (35, 75, 225),
    "yellow": (250, 215, 45),
    "purple": (165, 45, 200),
    "cyan": (45, 205, 225),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
}
"""The colours of things and of backgrounds, as sRGB; far from each other, so that the nearest one is never in doubt."""

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
RADII_PX = {"small": 6, "normal": 9, "large": 12}
"""The sizes of things; the word "normal" is never spoken."""

RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""Where the first thing lies as seen from the second: (x, y), y pointing down."""

REACH = 1.1
"""How far a shape reaches from its centre, in radii (the star's tips)."""

GAP_PX, DRIFT_PX = 3, 6
"""Two things are at least the gap apart, and drift at most so far (or one cell of the grid) from their common line."""

SINGLE_SHARE = 0.3
"""Share of scenes with one thing only; pairs are harder and get the rest."""

_STAR = [
    (radius * math.sin(turn * math.pi / 5), -radius * math.cos(turn * math.pi / 5))
    for turn, radius in enumerate([REACH, 0.5] * 5)
]
_TRIANGLE = [(0.0, -1.0), (1.05, 0.85), (-1.05, 0.85)]


class Thing(NamedTuple):
    """One object of a scene, by its words."""

    colour: str
    shape: str
    size: str


@dataclass(frozen=True)
class Scene:
    """What a picture shows: one thing, or two with the relation of the first to the second, on a background."""

    things: tuple[Thing, ...]
    background: str
    relation: str = ""


class Drawing(NamedTuple):
    """A scene's picture (uint8, SIZE_PX x SIZE_PX x 3) and the centres (x, y) of its things, in pixels."""

    pixels: Pixels
    centres: tuple[tuple[int, int], ...]


def prompt(scene: Scene) -> str:
    """Say a scene in words, as in "a small red circle left of a blue square on a white background"."""
    sizes = {"small": "small ", "normal": "", "large": "large "}
    names = [f"a {sizes[thing.size]}{thing.colour} {thing.shape}" for thing in scene.things]
    return f" {scene.relation} ".join(names) + f" on a {scene.background} background"


def parse(text: str) -> Scene:
    """Read a prompt back into its scene; ValueError names what is not understood."""
    body, found, background = text.strip().lower().removesuffix(" background").partition(" on a ")
    if not found or background not in COLOURS:
        raise ValueError(f"no known background in {text!r}; end with 'on a <colour> background'")
    relation = next((each for each in RELATIONS if f" {each} a " in body), "")
    names = body.split(f" {relation} ") if relation else [body]
    return Scene(things=tuple(_parse_thing(name) for name in names), background=background, relation=relation)


def _parse_thing(name: str) -> Thing:
    words = name.split()
    size = words[1] if len(words) == 4 else "normal"
    if len(words) not in (3, 4) or words[0] != "a" or size not in RADII_PX:
        raise ValueError(f"{name!r} is not 'a [small|large] <colour> <shape>'")
    colour, shape = words[-2:]
    if colour not in COLOURS or shape not in SHAPES:
        raise ValueError(f"{name!r}: the colours are {', '.join(COLOURS)}; the shapes are {', '.join(SHAPES)}")
    return Thing(colour=colour, shape=shape, size=size)


def words() -> list[str]:
    """Every word a prompt can hold, sorted: the closed vocabulary of the tokenizers."""
    spoken = {"a", "on", "background", "small", "large", *COLOURS, *SHAPES}
    return sorted(spoken.union(*(relation.split() for relation in RELATIONS)))


@functools.cache
def stencil(shape: str, radius_px: int) -> npt.NDArray[np.float32]:
    """Coverage (0..1) of a shape around its centre pixel; side 2 * ceil(REACH * radius) + 1, antialiased 5 x 5."""
    reach = math.ceil(REACH * radius_px)
    fine = (np.arange((2 * reach + 1) * 5) - (2 * reach + 1) * 2.5 + 0.5) / 5 / radius_px
    x, y = np.meshgrid(fine, fine)
    inside = _inside(shape, x, y).astype(np.float32)
    cover: npt.NDArray[np.float32] = inside.reshape(2 * reach + 1, 5, 2 * reach + 1, 5).mean(axis=(1, 3))
    return cover


def _inside(shape: str, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Whether points, in radii from the centre, belong to the shape."""
    distance = np.hypot(x, y)
    if shape == "circle":
        return distance <= 1.0
    if shape == "ring":
        return (distance <= 1.05) & (distance >= 0.5)
    if shape == "square":
        return np.maximum(abs(x), abs(y)) <= 0.9
    if shape == "cross":
        return (np.minimum(abs(x), abs(y)) <= 0.33) & (np.maximum(abs(x), abs(y)) <= 1.05)
    return _inside_polygon(_STAR if shape == "star" else _TRIANGLE, x, y)


def _inside_polygon(
    corners: list[tuple[float, float]], x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Even-odd rule: count the edges that a ray to the right crosses."""
    inside = np.zeros(x.shape, dtype=np.bool_)
    for (x0, y0), (x1, y1) in itertools.pairwise([*corners, corners[0]]):
        if y0 != y1:
            inside ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return inside


def draw(scene: Scene, *, seed: int, grid_px: int = 1) -> Drawing:
    """Draw a scene; the seed decides where its things lie, the same everywhere.

    Centres are at multiples of `grid_px`; from half of SIZE_PX on, each thing has one place only.
    """
    centres = _place(scene, np.random.default_rng(seed), grid_px)
    canvas = np.empty((SIZE_PX, SIZE_PX, 3), dtype=np.float32)
    canvas[:] = COLOURS[scene.background]
    for thing, (x, y) in zip(scene.things, centres, strict=True):
        cover = stencil(thing.shape, RADII_PX[thing.size])[..., None]
        reach = cover.shape[0] // 2
        patch = canvas[y - reach : y + reach + 1, x - reach : x + reach + 1]
        patch += cover * (np.array(COLOURS[thing.colour], dtype=np.float32) - patch)
    return Drawing(pixels=np.round(canvas).astype(np.uint8), centres=centres)


def _place(scene: Scene, random: np.random.Generator, grid_px: int) -> tuple[tuple[int, int], ...]:
    """Choose centres on the grid so that everything is inside, nothing touches, and the relation is the plain one."""
    if grid_px * 2 >= SIZE_PX:
        return _only_place(scene)
    reaches = [math.ceil(REACH * RADII_PX[thing.size]) for thing in scene.things]
    lowest = [math.ceil(reach / grid_px) for reach in reaches]
    highest = [(SIZE_PX - 1 - reach) // grid_px for reach in reaches]
    if len(scene.things) == 1:
        x, y = (int(each) * grid_px for each in random.integers(lowest[0], highest[0] + 1, size=2))
        return ((x, y),)
    right, down = RELATIONS[scene.relation]
    near, far = (0, 1) if right + down < 0 else (1, 0)
    apart, drift = math.ceil((sum(reaches) + GAP_PX) / grid_px), round(DRIFT_PX / grid_px)
    along, across = [0, 0], [0, 0]
    along[near] = int(random.integers(lowest[near], highest[far] - apart + 1))
    along[far] = int(random.integers(along[near] + apart, highest[far] + 1))
    across[0] = int(random.integers(lowest[0], highest[0] + 1))
    across[1] = int(np.clip(across[0] + random.integers(-drift, drift + 1), lowest[1], highest[1]))
    pairs = [(a * grid_px, b * grid_px) for a, b in zip(along, across, strict=True)]
    return tuple((a, b) if right else (b, a) for a, b in pairs)


def _only_place(scene: Scene) -> tuple[tuple[int, int], ...]:
    """One thing in the middle, two a quarter of the picture to either side of it."""
    middle, aside = SIZE_PX // 2, SIZE_PX // 4
    if len(scene.things) == 1:
        return ((middle, middle),)
    right, down = RELATIONS[scene.relation]
    return (
        (middle + right * aside, middle + down * aside),
        (middle - right * aside, middle - down * aside),
    )


@functools.cache
def combinations_held_out() -> frozenset[tuple[str, str, str]]:
    """The tenth of all (colour, shape, background) that training never shows, chosen by hash."""
    possible = [each for each in itertools.product(COLOURS, SHAPES, COLOURS) if each[0] != each[2]]
    ranked = sorted(possible, key=lambda each: hashlib.sha256("/".join(each).encode()).digest())
    return frozenset(ranked[: round(len(ranked) / 10)])


def held_out(scene: Scene) -> bool:
    """Whether a scene shows a combination that training never shows."""
    return any((each.colour, each.shape, scene.background) in combinations_held_out() for each in scene.things)


def reserved(scene: Scene) -> bool:
    """Whether a scene's prompt is kept for evaluation: one in twenty, by hash, whatever its picture's seed."""
    return hashlib.sha256(prompt(scene).encode()).digest()[0] < 256 / 20


def sample(random: np.random.Generator) -> Scene:
    """Draw any scene of the world at random."""
    background = str(random.choice(list(COLOURS)))
    colours = [colour for colour in COLOURS if colour != background]
    if random.random() < SINGLE_SHARE:
        return Scene(things=(_sample_thing(random, colours),), background=background)
    first, second = _sample_thing(random, colours), _sample_thing(random, colours)
    while second[:2] == first[:2]:
        second = _sample_thing(random, colours)
    return Scene(things=(first, second), background=background, relation=str(random.choice(list(RELATIONS))))


def _sample_thing(random: np.random.Generator, colours: list[str]) -> Thing:
    return Thing(
        colour=str(random.choice(colours)), shape=str(random.choice(SHAPES)), size=str(random.choice(list(RADII_PX)))
    )


def training_scenes(*, seed: int) -> Iterator[Scene]:
    """Scenes that training may see, without end."""
    random = np.random.default_rng(seed)
    while True:
        scene = sample(random)
        if not held_out(scene) and not reserved(scene):
            yield scene


def evaluation_scenes(count: int, *, combinations_held_out: bool, seed: int = 7) -> list[Scene]:
    """Scenes with distinct prompts that training never sees: reserved prompts, or held-out combinations."""
    random, chosen = np.random.default_rng(seed), dict[str, Scene]()
    while len(chosen) < count:
        scene = sample(random)
        if held_out(scene) == combinations_held_out and (combinations_held_out or reserved(scene)):
            chosen.setdefault(prompt(scene), scene)
    return list(chosen.values())
