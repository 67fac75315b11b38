"""Each word of a prompt is told its place."""

import itertools

from darkroom.model_runner.pocket import bindings, networks, scenes


def labelled(prompt: str) -> list[tuple[str, int]]:
    return list(zip(prompt.split(), bindings.label(prompt), strict=False))


def test_words_of_each_thing_go_to_its_place() -> None:
    no, left, right = bindings.NOTHING, bindings.LEFT, bindings.RIGHT
    assert [place for _, place in labelled("a small red ring left of a blue star on a white background")] == [
        *[left] * 4,
        *[left, no],
        *[right] * 3,
        *[no, no, bindings.BACKGROUND, no],
    ]


def test_the_first_thing_of_right_of_is_on_the_right_and_of_below_at_the_bottom() -> None:
    right = dict(labelled("a red ring right of a blue star on a white background"))
    assert (right["ring"], right["star"]) == (bindings.RIGHT, bindings.LEFT)
    below = dict(labelled("a red ring below a blue star on a white background"))
    assert (below["ring"], below["star"]) == (bindings.BOTTOM, bindings.TOP)


def test_a_single_thing_is_in_the_middle() -> None:
    assert dict(labelled("a large red ring on a white background"))["ring"] == bindings.MIDDLE


def test_every_prompt_has_a_label_a_token() -> None:
    for scene in itertools.islice(scenes.training_scenes(seed=1), 500):
        labels = bindings.label(scenes.prompt(scene))
        assert len(labels) == networks.TOKENS_MAX
        assert all(place == bindings.NOTHING for place in labels[len(scenes.prompt(scene).split()) :])
