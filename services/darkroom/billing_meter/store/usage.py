"""Reports over recorded usage.

A tenant, a time range and the grouping come in; rows by day, then model, go out.
"""

import datetime

from darkroom import errors, postgres, pricing
from darkroom.billing_meter import domain, report
from darkroom.billing_meter.store import charges

_SUMS = ", ".join(
    f"coalesce(sum({name}) FILTER (WHERE free_reason = ''), 0)::bigint AS {name}" for name in charges.USAGE
)
_REPORT = f"""
SELECT CASE WHEN $4 THEN model ELSE '' END AS model_group,
    CASE WHEN $5 THEN to_char(finished_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') ELSE '' END AS day,
    count(*) FILTER (WHERE free_reason = '') AS generations, {_SUMS},
    coalesce(sum(amount_nanos), 0)::bigint AS amount_nanos,
    count(*) FILTER (WHERE free_reason <> '') AS free_generations
FROM usage_event LEFT JOIN charge USING (generation_id)
WHERE usage_event.tenant_id = $1 AND finished_at >= $2 AND finished_at < $3
GROUP BY 1, 2 ORDER BY 2, 1 LIMIT {report.ROWS_MAX + 1}
"""


async def rows(
    database: postgres.Database,
    *,
    tenant_id: str,
    start: datetime.datetime,
    end: datetime.datetime,
    by_model: bool,
    by_day: bool,
) -> list[domain.UsageRow]:
    """Sum what finished from `start` up to but without `end`; FailedPrecondition if that makes too many rows."""
    found = await database.fetch(_REPORT, tenant_id, start, end, by_model, by_day)
    if len(found) > report.ROWS_MAX:
        raise errors.FailedPrecondition(
            "REPORT_TOO_LARGE", "the report has too many rows; ask for a shorter time range"
        )
    return [_row(row) for row in found]


def _row(row: postgres.Row) -> domain.UsageRow:
    return domain.UsageRow(
        model=row["model_group"],
        day=row["day"],
        generations=row["generations"],
        usage=pricing.Quantities(**{name: row[name] for name in charges.USAGE}),
        amount_nanos=row["amount_nanos"],
        free_generations=row["free_generations"],
    )
