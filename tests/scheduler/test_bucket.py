import pytest

from darkroom.scheduler import bucket


@pytest.mark.parametrize(
    ("size", "name"),
    [((64, 64), "64x64"), ((832, 480, 81), "832x480x81"), ((128, 64, 1), "128x64x1")],
)
def test_a_size_has_one_name(size, name):
    assert bucket.size(*size) == name


@pytest.mark.parametrize(
    ("quality", "guided", "name", "read"),
    [
        ("LOSSLESS", False, "64x32", bucket.Bucket(2048, "", False)),
        ("LOSSLESS", True, "64x32 guided", bucket.Bucket(2048, "", True)),
        ("DRAFT", False, "64x32 draft", bucket.Bucket(2048, "draft", False)),
        ("HIGH", True, "64x32 high guided", bucket.Bucket(2048, "high", True)),
    ],
)
def test_a_name_says_what_its_bucket_is_of(quality, guided, name, read):
    assert bucket.name("64x32", quality=quality, guided=guided) == name
    assert bucket.of(name) == read


def test_a_tier_that_runners_name_with_the_size_is_the_same_bucket():
    assert bucket.name("64x32 draft", guided=True) == bucket.name("64x32", quality="DRAFT", guided=True)


def test_a_sound_has_no_pixels():
    assert bucket.of(bucket.name(bucket.WINDOW, guided=True)) == bucket.Bucket(0, "", True)


@pytest.mark.parametrize(
    ("own", "nearest"),
    [
        ("64x64", "64x64"),
        ("64x64 guided", "64x64"),  # the size counts before guidance
        ("120x128", "128x128 guided"),
        ("128x128 draft guided", "128x128 draft guided"),
        ("128x128 high guided", "128x128 guided"),  # of a tier that was not measured, LOSSLESS
        ("window", "window"),
    ],
)
def test_the_nearest_is_nearest_in_size_then_guidance_then_tier(own, nearest):
    known = ["64x64", "128x128 draft guided", "128x128 guided", "window", "made up", "64x", ""]
    assert bucket.nearest(bucket.of(own), {name: name for name in known}) == (bucket.of(nearest), nearest)


def test_sounds_and_pictures_tell_nothing_of_each_other():
    assert bucket.nearest(bucket.of("window"), {"64x64": 1}) is None
    assert bucket.nearest(bucket.of("64x64"), {"window": 1}) is None
    assert bucket.nearest(bucket.of("64x64 draft"), {"64x64 high": 1}) is None


def test_guidance_is_twice_the_work():
    assert (bucket.of("64x32").work, bucket.of("64x32 guided").work, bucket.of("window").work) == (2048, 4096, 1)


def test_what_was_not_measured_costs_what_the_nearest_does_in_proportion():
    known = bucket.Nearest({"64x64": 100, "64x64 guided": 190, "made up": 1})
    assert [known["64x64"], known["128x64"], known["128x128 guided"]] == [100, 200, 760]
    assert known["128x64"] == 200  # once more
    assert known.get("window", 7) == known.get("", 7) == 7
    assert "128x64" not in known
    assert known == {"64x64": 100, "64x64 guided": 190, "made up": 1}


def test_of_what_several_measured_the_slowest_counts():
    tables = [{("m", "64x64"): 100, ("k", "64x64"): 5}, {("m", "64x64"): 70, ("m", "window"): 3}]
    assert bucket.slowest(tables) == {"m": {"64x64": 100, "window": 3}, "k": {"64x64": 5}}
