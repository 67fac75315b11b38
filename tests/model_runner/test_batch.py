from darkroom.model_runner import batch


def turns(rows: list[str], *, rows_max: int, count: int) -> list[str]:
    """Return what runs in each of `count` slices; rows are named <key><number> and go to the end of the line."""
    ran = []
    for _ in range(count):
        picked = batch.pick(rows, key_of=lambda row: row[0], rows_max=rows_max)
        ran.append("".join(picked))
        rows = [row for row in rows if row not in picked] + picked
    return ran


def test_takes_the_rows_of_one_key_from_the_front() -> None:
    assert batch.pick(["a1", "b1", "a2", "a3"], key_of=lambda row: row[0], rows_max=2) == ["a1", "a2"]


def test_nothing_waits_nothing_runs() -> None:
    assert batch.pick([], key_of=lambda row: row, rows_max=8) == []


def test_every_key_and_every_row_gets_its_turn() -> None:
    assert turns(["a1", "a2", "b1"], rows_max=8, count=4) == ["a1a2", "b1", "a1a2", "b1"]
    assert turns(["a1", "a2", "a3", "b1"], rows_max=2, count=5) == ["a1a2", "a3a1", "b1", "a2a3", "a1a2"]
