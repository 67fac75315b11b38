"""The ledger: one transaction's entries and the balance after them, written together.

`lock` comes first in every database transaction that moves a tenant's money, so that such transactions follow one another; `post`
writes what the verbs decided.
"""

from collections.abc import Sequence
from typing import NamedTuple

from darkroom import errors, ids, postgres
from darkroom.billing_meter import domain, ledger

_LOCK = """
SELECT currency, available_nanos, held_nanos, receivable_nanos FROM balance JOIN tenant USING (tenant_id)
WHERE tenant_id = $1 FOR UPDATE OF balance
"""
_TXN = "INSERT INTO txn (txn_id, tenant_id, kind, subject_id, currency) VALUES ($1, $2, $3, $4, $5)"
_ENTRY = "INSERT INTO entry (txn_id, account, nanos) VALUES ($1, $2, $3)"
_BALANCE = """
UPDATE balance SET available_nanos = $2, held_nanos = $3, receivable_nanos = $4 WHERE tenant_id = $1
"""


class Locked(NamedTuple):
    """A tenant whose money no other transaction moves until this one ends."""

    tenant_id: str
    currency: str
    balance: domain.Balance


class Posting(NamedTuple):
    """A ledger transaction to write: `subject_id` is what it is posted for, once."""

    txn_id: str
    kind: domain.Kind
    subject_id: str
    entries: Sequence[ledger.Entry]


def posting(kind: domain.Kind, subject_id: str, entries: Sequence[ledger.Entry]) -> Posting:
    """Give entries the id of a new transaction."""
    return Posting(ids.new("txn"), kind, subject_id, entries)


async def lock(connection: postgres.Connection, tenant_id: str, *, currency: str = "") -> Locked:
    """Lock a tenant's balance; NotFound without such a tenant, FailedPrecondition if its `currency` is another."""
    row = await connection.fetchrow(_LOCK, tenant_id)
    if row is None:
        raise errors.NotFound("tenant", tenant_id)
    if currency and row["currency"] != currency:
        raise errors.FailedPrecondition("CURRENCY_MISMATCH", f"the tenant's account is in {row['currency']}")
    balance = domain.Balance(row["available_nanos"], row["held_nanos"], row["receivable_nanos"])
    return Locked(tenant_id, row["currency"], balance)


async def post(connection: postgres.Connection, tenant: Locked, postings: Sequence[Posting]) -> domain.Balance:
    """Write transactions, their entries and the balance after them, which is returned."""
    balance = tenant.balance
    for each in postings:
        balance = ledger.apply(balance, each.entries)
    txns = [(each.txn_id, tenant.tenant_id, each.kind.value, each.subject_id, tenant.currency) for each in postings]
    entries = [(each.txn_id, entry.account.value, entry.nanos) for each in postings for entry in each.entries]
    await connection.executemany(_TXN, txns)
    await connection.executemany(_ENTRY, entries)
    await connection.execute(_BALANCE, tenant.tenant_id, *balance)
    return balance
