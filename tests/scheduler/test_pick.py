from hypothesis import given
from hypothesis import strategies as st

from darkroom.scheduler import pick
from darkroom.scheduler.domain import fleet


def candidate(runner_id, score, predicted_us=100):
    return fleet.Candidate(runner_id, "node-a", predicted_us, 0.0, {}, score)


def names(candidates):
    return [one.runner_id for one in pick.best_first(candidates)]


def test_best_score_first_then_sooner_then_by_id():
    assert names([candidate("b", 0.5), candidate("a", 0.9)]) == ["a", "b"]
    assert names([candidate("b", 0.5, 200), candidate("c", 0.5, 100)]) == ["c", "b"]
    assert names([candidate("b", 0.5), candidate("a", 0.5)]) == ["a", "b"]


def test_rounding_noise_is_no_difference():
    assert names([candidate("b", 0.3), candidate("a", 0.1 + 0.2 - 1e-15)]) == ["a", "b"]


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 1)), unique_by=lambda one: one[0]), st.randoms())
def test_the_order_of_arrival_does_not_matter(facts, random):
    candidates = [candidate(*fact) for fact in facts]
    shuffled = list(candidates)
    random.shuffle(shuffled)
    assert names(candidates) == names(shuffled)
