"""Which pools a replica takes.

The standing of every pool that has runners or work comes in, by the database's clock; the pools to claim now go out. The owner loop
claims them; the store makes sure that one replica wins.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Standing(NamedTuple):
    """A pool as the database has it."""

    pool: str
    owner_id: str  # empty: nobody, never or handed back
    expired: bool  # its owner did not renew in time


def claimable(standings: Sequence[Standing], *, settled: bool) -> list[str]:
    """Choose the pools to claim: those of dead owners all at once, but only once the database is `settled`, and one free pool.

    A database that came back less than a lease ago gave no owner the chance to renew, so silence proves nothing yet. Free pools
    are taken one at a time, so that several replicas starting together share them out.
    """
    dead = [standing.pool for standing in standings if standing.owner_id and standing.expired and settled]
    free = [standing.pool for standing in standings if not standing.owner_id]
    return sorted(dead) + sorted(free)[:1]
