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


def test_what_is_forfeited_moves_to_the_platform() -> None:
    books = account.Account()
    books.share(11, 4)
    books.forfeit(3)
    assert (books.busy_us, books.platform_us) == (11, 3)


def test_who_comes_begins_with_the_least_of_those_here() -> None:
    tenants = account.Tenants()
    tenants.enter("a")
    tenants.use("a", 500)
    tenants.enter("b")
    assert tenants.used_us("b") == 500  # not 0: b has not waited for what a had
    tenants.use("b", 20)
    tenants.enter("b")
    tenants.leave("b")
    assert tenants.used_us("b") == 520
    tenants.leave("b")
    tenants.leave("a")
    tenants.enter("c")
    assert tenants.used_us("c") == 0
