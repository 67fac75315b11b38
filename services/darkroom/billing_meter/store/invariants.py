"""What always holds of the ledger, one statement each.

Nothing comes in; for each invariant the number of rows that break it goes out. `Reconcile` runs them for operators, and the tests
plant a violation of each.
"""

from darkroom import postgres
from darkroom.billing_meter import domain

STATEMENTS = {
    "entries_sum_to_zero": """
        SELECT count(*) FROM (SELECT txn_id FROM entry GROUP BY txn_id HAVING sum(nanos) <> 0) AS broken""",
    "balances_equal_entries": """
        SELECT count(*) FROM tenant LEFT JOIN balance USING (tenant_id) LEFT JOIN (
            SELECT tenant_id,
                coalesce(sum(nanos) FILTER (WHERE account = 'AVAILABLE'), 0) AS available,
                coalesce(sum(nanos) FILTER (WHERE account = 'HELD'), 0) AS held,
                coalesce(sum(nanos) FILTER (WHERE account = 'RECEIVABLE'), 0) AS receivable
            FROM txn JOIN entry USING (txn_id) GROUP BY tenant_id) AS sums USING (tenant_id)
        WHERE (available_nanos, held_nanos, receivable_nanos)
            IS DISTINCT FROM (coalesce(available, 0), coalesce(held, 0), coalesce(receivable, 0))""",
    "held_equals_open_leases": """
        SELECT count(*) FROM balance
        WHERE held_nanos
            <> coalesce((SELECT sum(granted_nanos) FROM lease_grant WHERE tenant_id = balance.tenant_id), 0)
            - coalesce((SELECT sum(released_nanos) FROM lease_release WHERE tenant_id = balance.tenant_id), 0)
            - coalesce((SELECT sum(held_nanos) FROM charge WHERE tenant_id = balance.tenant_id), 0)""",
    "one_charge_per_charged_event": """
        SELECT count(*) FROM usage_event AS event FULL JOIN charge USING (generation_id)
        WHERE (event.free_reason IS NOT DISTINCT FROM '') <> (charge_id IS NOT NULL) OR event.tenant_id <> charge.tenant_id""",
    "one_transaction_per_movement": """
        SELECT count(*) FROM (SELECT * FROM txn WHERE kind <> 'CREDIT') AS movement FULL JOIN (
            SELECT 'GRANT' AS kind, grant_id AS subject_id, txn_id, tenant_id FROM lease_grant
            UNION ALL SELECT 'RELEASE', release_id, txn_id, tenant_id FROM lease_release
            UNION ALL SELECT 'CHARGE', generation_id, txn_id, tenant_id FROM charge) AS cause
        USING (kind, subject_id, txn_id, tenant_id)
        WHERE movement.currency IS NULL OR cause.kind IS NULL""",
    "movements_equal_entries": """
        SELECT count(*) FROM (
            SELECT txn_id, 'HELD' AS account, granted_nanos AS nanos FROM lease_grant
            UNION ALL SELECT txn_id, 'AVAILABLE', released_nanos FROM lease_release
            UNION ALL SELECT txn_id, 'REVENUE', amount_nanos FROM charge
            UNION ALL SELECT txn_id, 'HELD', -held_nanos FROM charge) AS movement
        WHERE nanos <> coalesce((SELECT nanos FROM entry
            WHERE entry.txn_id = movement.txn_id AND entry.account = movement.account), 0)""",
    "lines_sum_to_charge": """
        SELECT count(*) FROM charge WHERE amount_nanos <> coalesce(
            (SELECT sum((line ->> 'amount_nanos')::numeric) FROM jsonb_array_elements(lines) AS line), 0)""",
    "charges_within_estimate": """
        SELECT count(*) FROM charge JOIN usage_event USING (generation_id) WHERE amount_nanos > estimate_nanos""",
    "usage_priced_for_its_model": """
        SELECT count(*) FROM usage_event LEFT JOIN price_version USING (price_version_id)
        WHERE (usage_event.model, usage_event.currency) IS DISTINCT FROM (price_version.model, price_version.currency)""",
}


async def check(database: postgres.Database) -> list[domain.InvariantResult]:
    """Run every invariant; each sees one snapshot of the ledger."""
    return [domain.InvariantResult(name, await database.fetchval(sql)) for name, sql in STATEMENTS.items()]
