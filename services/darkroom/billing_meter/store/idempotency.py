"""Operators' idempotency keys.

A key and the request's parameters come in, inside the transaction that would do the work; the id of what an earlier call made goes
out, or None for the first.
"""

import hashlib
import json

from darkroom import errors, postgres

_CLAIM = """
INSERT INTO idempotency (method, idempotency_key, params_sha256, subject_id) VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING RETURNING subject_id
"""
_READ = "SELECT params_sha256, subject_id FROM idempotency WHERE method = $1 AND idempotency_key = $2"


async def claim(
    connection: postgres.Connection, *, method: str, idempotency_key: str, params: tuple[object, ...], subject_id: str
) -> str | None:
    """Claim a key for `subject_id`, or return what it made before; AlreadyExists if that had other parameters."""
    params_sha256 = hashlib.sha256(json.dumps(params, default=str).encode()).digest()
    if await connection.fetchval(_CLAIM, method, idempotency_key, params_sha256, subject_id):
        return None
    row = await connection.fetchrow(_READ, method, idempotency_key)
    if row is None or row["params_sha256"] != params_sha256:
        raise errors.AlreadyExists("idempotency_key", idempotency_key)
    return str(row["subject_id"])
