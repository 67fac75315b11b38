"""Why a generation ran where it ran, and why it still waits.

The servicer, which has checked whose generation it is, asks with its id; the decisions recorded with its attempts come out as the
proto has them. Nothing of another tenant's is in them: other work shows only as time and as counts of runners.
"""

from google.protobuf import json_format

from darkroom import postgres
from darkroom.api.scheduler.v1 import generation_service_pb2 as pb


class Explain:
    """Reads decisions; runners that registered within `seen_within_s` count as being there."""

    def __init__(self, database: postgres.Database, *, seen_within_s: float) -> None:
        self._database = database
        self._seen_within_s = seen_within_s

    async def decisions(self, generation_id: str) -> list[pb.PlacementDecision]:
        """One decision per attempt, oldest first."""
        rows = await self._database.fetch(
            "SELECT a.attempt, a.started_at, a.pool, a.runner_id, a.decision,"
            " lag(a.end_reason) OVER (ORDER BY a.attempt) AS previous,"
            " CASE WHEN a.attempt = g.attempt THEN g.resumed_step ELSE a.resumed_step END AS resumed_step"
            " FROM attempt a JOIN generation g USING (generation_id) WHERE g.generation_id = $1 ORDER BY a.attempt",
            generation_id,
        )
        return [_decision(row) for row in rows]

    async def waiting_reason(self, generation_id: str) -> str:
        """Why it waits, in one sentence; empty if it does not."""
        row = await self._database.fetchrow(
            "SELECT g.state, g.model, g.suspect, (SELECT count(*) FROM runner r WHERE g.model = ANY(r.models)"
            " AND r.lost_at IS NULL AND r.seen_at > clock_timestamp() - $2 * interval '1 second') AS runners,"
            " (SELECT count(*) FROM runner r WHERE g.model = ANY(r.models) AND r.lost_at IS NULL AND (r.draining"
            " OR r.status ->> 'quarantine' <> '') AND r.seen_at > clock_timestamp() - $2 * interval '1 second') AS barred"
            " FROM generation g WHERE g.generation_id = $1",
            generation_id,
            self._seen_within_s,
        )
        return _waiting(row) if row is not None and row["state"] == "QUEUED" else ""


def _decision(row: postgres.Row) -> pb.PlacementDecision:
    stored = row["decision"]
    decision = pb.PlacementDecision(
        attempt=row["attempt"],
        pool=row["pool"],
        runner_id=row["runner_id"],
        summary=stored["summary"],
        candidates=[
            json_format.ParseDict(one, pb.PlacementCandidate(), ignore_unknown_fields=True)
            for one in stored["candidates"]
        ],
        rejections=stored["rejections"],
        previous_attempt_end=row["previous"] or "",
        resumed_step=row["resumed_step"],
    )
    decision.decided_at.FromDatetime(row["started_at"])
    return decision


def _waiting(row: postgres.Row) -> str:
    usable = row["runners"] - row["barred"]
    if not row["runners"]:
        return f"There is no runner that may load {row['model']}."
    if not usable:
        return f"Every runner that may load {row['model']} is draining or quarantined."
    if row["suspect"]:
        return "A runner died with it aboard, so it waits for a runner to be empty and then runs alone."
    return f"Its turn has not come: runners that may load {row['model']} and are busy with other work: {usable}."
