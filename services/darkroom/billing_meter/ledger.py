"""How money moves: double entry over a tenant's accounts and the platform's.

A balance and an amount come in; entries that sum to zero go out, and `apply` gives the balance after them. `store.ledger` writes both
in one transaction. A charge is never refused for lack of funds: it takes held money, then available money, and what is still missing
is owed; what is owed is paid first from any credit.
"""

from collections.abc import Sequence
from typing import NamedTuple

from darkroom import errors
from darkroom.billing_meter import domain

_Account = domain.Account


class Entry(NamedTuple):
    """One account's change, in nano-units."""

    account: domain.Account
    nanos: int


def credit(balance: domain.Balance, nanos: int) -> list[Entry]:
    """Add prepaid money; FailedPrecondition if the balance would pass what the ledger can count."""
    if balance.total_nanos + nanos > domain.BALANCE_NANOS_MAX:
        raise errors.FailedPrecondition("BALANCE_LIMIT", "the balance would be more than an account may hold")
    owed = min(nanos, -balance.receivable_nanos)
    return _entries((_Account.RECEIVABLE, owed), (_Account.AVAILABLE, nanos - owed), (_Account.CREDIT, -nanos))


def grant(nanos: int) -> list[Entry]:
    """Hold available money for work to come."""
    return _entries((_Account.AVAILABLE, -nanos), (_Account.HELD, nanos))


def release(balance: domain.Balance, nanos: int) -> list[Entry]:
    """Give held money back; FailedPrecondition if less is held."""
    if nanos > balance.held_nanos:
        raise errors.FailedPrecondition(
            "RELEASE_EXCEEDS_HELD", "the tenant has less money on hold than is to be released"
        )
    return _entries((_Account.HELD, -nanos), (_Account.AVAILABLE, nanos))


def charge(balance: domain.Balance, nanos: int) -> list[Entry]:
    """Take what a generation cost: from held money, then from available money, the rest is owed."""
    held = min(nanos, balance.held_nanos)
    available = min(nanos - held, balance.available_nanos)
    owed = nanos - held - available
    return _entries(
        (_Account.HELD, -held),
        (_Account.AVAILABLE, -available),
        (_Account.RECEIVABLE, -owed),
        (_Account.REVENUE, nanos),
    )


def of(account: domain.Account, entries: Sequence[Entry]) -> int:
    """How much the entries change one account."""
    return sum(entry.nanos for entry in entries if entry.account is account)


def apply(balance: domain.Balance, entries: Sequence[Entry]) -> domain.Balance:
    """The tenant's balance after the entries."""
    return domain.Balance(
        available_nanos=balance.available_nanos + of(_Account.AVAILABLE, entries),
        held_nanos=balance.held_nanos + of(_Account.HELD, entries),
        receivable_nanos=balance.receivable_nanos + of(_Account.RECEIVABLE, entries),
    )


def _entries(*changes: tuple[domain.Account, int]) -> list[Entry]:
    return [Entry(account, nanos) for account, nanos in changes if nanos]
