from darkroom.model_runner.fixed_cost import FixedCost, Table


def cost(size: str = "64x64", *, each_us: int) -> FixedCost:
    return FixedCost("m", size, each_us, 2 * each_us, 3 * each_us)


def told(table: Table) -> list[int]:
    return [line.prepare_us for line in table.snapshot()]


def test_the_first_generations_count_alike() -> None:
    table = Table()
    for each_us in (100, 200, 600):
        table.observe(cost(each_us=each_us))
    assert table.snapshot() == (cost(each_us=300),)


def test_what_changed_is_told_after_some_generations() -> None:
    table = Table()
    for _ in range(50):
        table.observe(cost(each_us=1000))
    for _ in range(30):
        table.observe(cost(each_us=100))
    assert 100 <= told(table)[0] <= 130


def test_sizes_have_lines_of_their_own() -> None:
    table = Table()
    table.observe(cost(each_us=100))
    table.observe(cost("128x128", each_us=400))
    assert told(table) == [100, 400]


def test_a_new_process_goes_on_from_what_was_measured() -> None:
    table = Table([cost(each_us=800)])
    assert told(table) == [800]
    table.observe(cost(each_us=1600))
    assert told(table) == [900]  # an eighth of the way: it was an average of many


def test_sizes_that_were_not_seen_for_longest_are_forgotten() -> None:
    table = Table()
    for width in range(2000):
        table.observe(cost(f"{width}x64", each_us=100))
        table.observe(cost(each_us=100))
    told_sizes = [line.size for line in table.snapshot()]
    assert len(told_sizes) == 512
    assert told_sizes[-2:] == ["1999x64", "64x64"]
