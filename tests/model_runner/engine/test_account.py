from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.model_runner.engine import account


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 64)), max_size=20), st.integers(0, 10**9))
def test_shares_and_platform_add_up_to_the_busy_time(slices: list[tuple[int, int]], platform_us: int) -> None:
    books = account.Account()
    shares = [books.share(whole_us, parts) for whole_us, parts in slices]
    books.platform(platform_us)
    assert books.busy_us == sum(map(sum, shares)) + books.platform_us
    assert books.platform_us == platform_us


def test_shares_are_equal_but_for_what_does_not_divide() -> None:
    assert account.Account().share(11, 4) == [3, 3, 3, 2]
