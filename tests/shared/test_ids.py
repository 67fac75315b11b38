"""Ids sort by time, are told apart, and are checked without being repeated."""

import pytest

from darkroom import ids


def test_ids_sort_by_the_time_they_were_made():
    made = [ids.new("gen", now_ms=ms) for ms in (1, 2, 3_000, 2**47)]
    assert made == sorted(made)
    assert ids.new("gen", now_ms=5)[4:16] == "000000000005"


def test_ids_of_one_moment_differ():
    assert len({ids.new("gen", now_ms=7) for _ in range(1000)}) == 1000


@pytest.mark.parametrize("prefix", sorted(ids.PREFIXES))
def test_a_new_id_passes_the_check(prefix):
    made = ids.new(prefix)
    assert ids.check(made, prefix) == made


@pytest.mark.parametrize(
    "value",
    [
        "",
        "gen_",
        "gen_" + "0" * 31,
        "gen_" + "0" * 33,
        "gen_" + "G" * 32,
        "ten_" + "0" * 32,
        "gen_" + "0" * 32 + "\n",
        "x",
    ],
)
def test_anything_else_does_not(value):
    with pytest.raises(ValueError, match="must be an id") as caught:
        ids.check(value, "gen")
    assert len(value) < 5 or value not in str(caught.value)
