from darkroom.scheduler import pool


def test_same_product_and_models_are_one_pool():
    name = pool.name("NVIDIA H200", ["b", "a"])
    assert name == pool.name("NVIDIA H200", ["a", "b", "b"])
    assert name.startswith("nvidia-h200-")
    assert len(name.rpartition("-")[2]) == 8


def test_other_products_or_models_are_others():
    assert len({pool.name("cpu", ["a"]), pool.name("cpu", ["a", "b"]), pool.name("gpu", ["a"])}) == 3


def test_a_product_of_odd_characters_still_has_a_name():
    assert pool.name("…", ["a"]).startswith("device-")
    assert pool.name("A_b/c" * 100, ["a"]).count("/") == 0
