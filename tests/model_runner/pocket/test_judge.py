"""The judge accepts what is drawn right and refuses what is drawn wrong."""

import dataclasses
from collections.abc import Callable

import numpy as np
import PIL.Image
import PIL.ImageFilter
import pytest

from darkroom.model_runner.pocket import judge, scenes

COUNT = 400


def some(count: int, *, pairs: bool = False) -> list[scenes.Scene]:
    random, chosen = np.random.default_rng(11), list[scenes.Scene]()
    while len(chosen) < count:
        scene = scenes.sample(random)
        if not pairs or scene.relation:
            chosen.append(scene)
    return chosen


def other(random: np.random.Generator, words: list[str], *taken: str) -> str:
    return str(random.choice([word for word in words if word not in taken]))


def change(scene: scenes.Scene, **words: str) -> scenes.Scene:
    return dataclasses.replace(scene, things=(scene.things[0]._replace(**words), *scene.things[1:]))


def wrong_colour(scene: scenes.Scene, random: np.random.Generator) -> scenes.Scene:
    return change(scene, colour=other(random, list(scenes.COLOURS), scene.background, scene.things[0].colour))


def wrong_shape(scene: scenes.Scene, random: np.random.Generator) -> scenes.Scene:
    return change(scene, shape=other(random, list(scenes.SHAPES), scene.things[0].shape))


def wrong_size(scene: scenes.Scene, random: np.random.Generator) -> scenes.Scene:
    return change(scene, size=other(random, list(scenes.RADII_PX), scene.things[0].size))


def wrong_background(scene: scenes.Scene, random: np.random.Generator) -> scenes.Scene:
    taken = [scene.background, *(thing.colour for thing in scene.things)]
    return dataclasses.replace(scene, background=other(random, list(scenes.COLOURS), *taken))


def wrong_relation(scene: scenes.Scene, random: np.random.Generator) -> scenes.Scene:
    return dataclasses.replace(scene, relation=other(random, list(scenes.RELATIONS), scene.relation))


def swapped(scene: scenes.Scene, random: np.random.Generator) -> scenes.Scene:
    return dataclasses.replace(scene, things=scene.things[::-1])


def missing_thing(scene: scenes.Scene, random: np.random.Generator) -> scenes.Scene:
    return scenes.Scene(things=scene.things[:1], background=scene.background)


Wrong = Callable[[scenes.Scene, np.random.Generator], scenes.Scene]


def test_drawn_truth_is_accepted() -> None:
    right = [
        judge.judge(scenes.prompt(each), scenes.draw(each, seed=seed).pixels) for seed, each in enumerate(some(COUNT))
    ]
    assert sum(each.ok for each in right) / COUNT >= 0.995


@pytest.mark.parametrize("wrong", [wrong_colour, wrong_shape, wrong_size, wrong_background])
def test_a_picture_with_another_word_is_refused(wrong: Wrong) -> None:
    _refuses(wrong, some(COUNT))


@pytest.mark.parametrize("wrong", [wrong_relation, swapped, missing_thing])
def test_a_picture_with_another_arrangement_is_refused(wrong: Wrong) -> None:
    _refuses(wrong, some(COUNT, pairs=True))


def _refuses(wrong: Wrong, chosen: list[scenes.Scene]) -> None:
    random, accepted = np.random.default_rng(5), 0
    for seed, scene in enumerate(chosen):
        picture = scenes.draw(wrong(scene, random), seed=seed).pixels
        verdict = judge.judge(scenes.prompt(scene), picture)
        assert verdict.ok or verdict.reasons
        accepted += verdict.ok
    assert accepted / len(chosen) <= 0.005


def test_an_extra_thing_is_refused() -> None:
    for seed, scene in enumerate(some(COUNT, pairs=True)):
        alone = scenes.Scene(things=scene.things[:1], background=scene.background)
        assert not judge.judge(scenes.prompt(alone), scenes.draw(scene, seed=seed).pixels).ok


@pytest.mark.parametrize("noise_deviation", [60, 120])
def test_noise_is_refused(noise_deviation: int) -> None:
    random = np.random.default_rng(2)
    for seed, scene in enumerate(some(40)):
        noisy = scenes.draw(scene, seed=seed).pixels + random.normal(0, noise_deviation, (64, 64, 3))
        assert not judge.judge(scenes.prompt(scene), np.clip(noisy, 0, 255).astype(np.uint8)).ok


def test_a_plain_picture_is_refused() -> None:
    plain = np.full((64, 64, 3), scenes.COLOURS["white"], dtype=np.uint8)
    verdict = judge.judge("a red circle on a white background", plain)
    assert verdict.reasons == ("it shows nothing, not a normal red circle",)


def test_a_thing_of_two_colours_is_refused() -> None:
    picture = scenes.draw(scenes.parse("a large red square on a white background"), seed=1).pixels.copy()
    red = (picture == scenes.COLOURS["red"]).all(axis=-1)
    red[:, : int(np.median(np.nonzero(red)[1]))] = False
    picture[red] = scenes.COLOURS["green"]
    assert not judge.judge("a large red square on a white background", picture).ok
    assert not judge.judge("a large green square on a white background", picture).ok


def test_a_slight_blur_and_a_slight_noise_are_forgiven() -> None:
    random, right = np.random.default_rng(3), 0
    for seed, scene in enumerate(some(100)):
        blurred = PIL.Image.fromarray(scenes.draw(scene, seed=seed).pixels).filter(PIL.ImageFilter.GaussianBlur(0.5))
        noisy = np.asarray(blurred) + random.normal(0, 8, (64, 64, 3))
        right += judge.judge(scenes.prompt(scene), np.clip(noisy, 0, 255).astype(np.uint8)).ok
    assert right >= 98


def test_larger_pictures_are_read_at_the_native_size() -> None:
    scene = scenes.parse("a small white ring above a large yellow star on a blue background")
    picture = PIL.Image.fromarray(scenes.draw(scene, seed=4).pixels).resize((128, 128), PIL.Image.Resampling.NEAREST)
    assert judge.judge(scenes.prompt(scene), picture).ok


def test_a_prompt_of_no_scene_is_refused() -> None:
    with pytest.raises(ValueError, match="background"):
        judge.judge("a cat", np.zeros((64, 64, 3), dtype=np.uint8))


def test_connected_parts_join_at_corners_and_come_largest_first() -> None:
    mask = np.zeros((5, 5), dtype=np.bool_)
    mask[0, 0] = mask[1, 1] = mask[4, 0] = True
    assert [int(part.sum()) for part in judge.connected(mask)] == [2, 1]
