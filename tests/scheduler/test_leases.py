import pytest

from darkroom.scheduler import leases

FREE = leases.Standing("free", "", True)
ALSO_FREE = leases.Standing("also-free", "", True)
DEAD = leases.Standing("dead", "replica-1", True)
ALIVE = leases.Standing("alive", "replica-2", False)


@pytest.mark.parametrize(
    ("standings", "settled", "claimed"),
    [
        ([], True, []),
        ([ALIVE], True, []),
        ([FREE, ALSO_FREE], True, ["also-free"]),  # one at a time, so that replicas share them out
        ([FREE, ALSO_FREE], False, ["also-free"]),  # nobody can be working there
        ([DEAD], True, ["dead"]),
        ([DEAD], False, []),  # the database was away: its owner had no chance to renew
        ([DEAD, FREE, ALIVE], True, ["dead", "free"]),
    ],
)
def test_claimable(standings, settled, claimed):
    assert leases.claimable(standings, settled=settled) == claimed
