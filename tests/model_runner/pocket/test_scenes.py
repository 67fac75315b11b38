"""The world of pocket-image: words and scenes say the same, and what is held out stays out."""

import itertools

import numpy as np
import pytest

from darkroom.model_runner.pocket import scenes

ISSUE_PROMPT = "a red circle left of a blue square on a white background"


def some(count: int) -> list[scenes.Scene]:
    random = np.random.default_rng(1)
    return [scenes.sample(random) for _ in range(count)]


def test_a_prompt_is_read_back_into_its_scene() -> None:
    for scene in some(500):
        assert scenes.parse(scenes.prompt(scene)) == scene


def test_the_issues_prompt_belongs_to_the_world() -> None:
    scene = scenes.parse(ISSUE_PROMPT)
    assert scene.things == (scenes.Thing("red", "circle", "normal"), scenes.Thing("blue", "square", "normal"))
    assert (scene.relation, scene.background) == ("left of", "white")


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [
        ("a red circle", "background"),
        ("a red circle on a beige background", "background"),
        ("a mauve circle on a white background", "colours are"),
        ("a huge red circle on a white background", "small.large"),
        ("a red dog on a white background", "shapes are"),
    ],
)
def test_what_is_not_of_the_world_is_refused(prompt: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        scenes.parse(prompt)


def test_the_vocabulary_holds_every_word_of_every_prompt() -> None:
    spoken = set(itertools.chain.from_iterable(scenes.prompt(scene).split() for scene in some(2_000)))
    assert spoken == set(scenes.words())


def test_a_seed_draws_the_same_picture_and_another_seed_another() -> None:
    scene = scenes.parse(ISSUE_PROMPT)
    first, again, other = (scenes.draw(scene, seed=seed).pixels for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_pictures_show_their_colours_and_keep_things_apart_and_inside() -> None:
    for seed, scene in enumerate(some(300)):
        pixels, centres = scenes.draw(scene, seed=seed)
        assert pixels.shape == (scenes.SIZE_PX, scenes.SIZE_PX, 3)
        # A reach of 1.1 radii comes to the rim at most, so the corner is background.
        assert tuple(pixels[0, 0]) == scenes.COLOURS[scene.background]
        for thing, (x, y) in zip(scene.things, centres, strict=True):
            if thing.shape != "ring":
                assert tuple(pixels[y, x]) == scenes.COLOURS[thing.colour]


@pytest.mark.parametrize("relation", list(scenes.RELATIONS))
def test_relations_are_drawn_as_said(relation: str) -> None:
    scene = scenes.parse(f"a large red star {relation} a large blue square on a white background")
    right, down = scenes.RELATIONS[relation]
    for seed in range(50):
        (x0, y0), (x1, y1) = scenes.draw(scene, seed=seed).centres
        along, across = ((x0 - x1) * right, y0 - y1) if right else ((y0 - y1) * down, x0 - x1)
        assert along > 2 * abs(across)


@pytest.mark.parametrize("grid_px", [8, 16])
def test_a_grid_narrows_where_things_lie(grid_px: int) -> None:
    drawn = [scenes.draw(scene, seed=seed, grid_px=grid_px) for seed, scene in enumerate(some(300))]
    places = {place for _, centres in drawn for place in centres}
    assert all(x % grid_px == y % grid_px == 0 for x, y in places)
    every_place = {8: 7 * 7, 16: 3 * 3}[grid_px]
    assert 0.9 * every_place < len(places) <= every_place


def test_the_coarsest_grid_leaves_one_place_for_each_thing() -> None:
    for scene in some(200):
        first, again = (scenes.draw(scene, seed=seed, grid_px=32) for seed in (1, 2))
        assert np.array_equal(first.pixels, again.pixels)
        expected = [{(16, 32), (48, 32)}, {(32, 16), (32, 48)}] if scene.relation else [{(32, 32)}]
        assert set(first.centres) in expected


def test_a_tenth_of_the_combinations_is_held_out_and_never_trained() -> None:
    combinations = len(scenes.COLOURS) * len(scenes.SHAPES) * (len(scenes.COLOURS) - 1)
    assert len(scenes.combinations_held_out()) == round(combinations / 10)
    for scene in itertools.islice(scenes.training_scenes(seed=3), 3_000):
        assert all(
            (each.colour, each.shape, scene.background) not in scenes.combinations_held_out() for each in scene.things
        )


def test_every_colour_shape_and_background_is_trained() -> None:
    trained = list(itertools.islice(scenes.training_scenes(seed=3), 3_000))
    shown = {word for scene in trained for thing in scene.things for word in thing}
    assert shown == {*scenes.COLOURS, *scenes.SHAPES, *scenes.RADII_PX}
    assert {scene.background for scene in trained} == set(scenes.COLOURS)


def test_evaluation_prompts_are_distinct_and_never_trained() -> None:
    trained = {scenes.prompt(scene) for scene in itertools.islice(scenes.training_scenes(seed=4), 20_000)}
    for held_out in (False, True):
        chosen = scenes.evaluation_scenes(200, combinations_held_out=held_out)
        prompts = {scenes.prompt(scene) for scene in chosen}
        assert len(prompts) == 200
        assert not prompts & trained
        assert all(scenes.held_out(scene) == held_out for scene in chosen)


def test_no_thing_has_the_backgrounds_colour_and_no_two_things_look_alike() -> None:
    for scene in some(2_000):
        assert all(thing.colour != scene.background for thing in scene.things)
        assert len({thing[:2] for thing in scene.things}) == len(scene.things)
