"""API keys, without their secrets.

`verify` is what every call of every room rests on: one look-up by the key's public prefix, and a comparison of SHA-256 in constant
time.
"""

import datetime
from collections.abc import Iterable

from darkroom import errors, ids, postgres, tokens
from darkroom.billing_meter import api_key, domain

LIVE_KEYS_MAX = 2  # of one name: the old and the new one while they are exchanged

_COLUMNS = "key_id, tenant_id, name, prefix, scopes, created_at, expires_at, revoked_at"
_LIVE = "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())"
_LOCK_TENANT = "SELECT tenant_id FROM tenant WHERE tenant_id = $1 FOR NO KEY UPDATE"
_COUNT_LIVE = f"SELECT count(*) FROM api_key WHERE tenant_id = $1 AND name = $2 AND {_LIVE}"
_INSERT = f"""
INSERT INTO api_key (key_id, tenant_id, name, prefix, sha256, scopes, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING RETURNING {_COLUMNS}
"""
_PAGE = f"""
SELECT {_COLUMNS} FROM api_key WHERE tenant_id = $1 AND ($2 = '' OR key_id < $2) ORDER BY key_id DESC LIMIT $3
"""
_REVOKE = f"""
UPDATE api_key SET revoked_at = coalesce(revoked_at, now()) WHERE key_id = $1 RETURNING {_COLUMNS}
"""
_VERIFY = f"SELECT key_id, tenant_id, scopes, sha256 FROM api_key WHERE prefix = $1 AND {_LIVE}"
_NO_SHA256 = bytes(32)


async def create(
    database: postgres.Database,
    minted: api_key.Minted,
    *,
    tenant_id: str,
    name: str,
    scopes: Iterable[str],
    expires_at: datetime.datetime | None = None,
) -> domain.Key:
    """Store a new key; NotFound without the tenant, FailedPrecondition if two live keys have the name."""
    async with database.transaction() as connection:
        if await connection.fetchval(_LOCK_TENANT, tenant_id) is None:
            raise errors.NotFound("tenant", tenant_id)
        if await connection.fetchval(_COUNT_LIVE, tenant_id, name) >= LIVE_KEYS_MAX:
            raise errors.FailedPrecondition("TOO_MANY_KEYS", "two live keys have this name; revoke one of them first")
        row = await connection.fetchrow(
            _INSERT, ids.new("key"), tenant_id, name, minted.prefix, minted.sha256, sorted(scopes), expires_at
        )
    if row is None:  # 48 random bits met a prefix that exists
        raise errors.Aborted("KEY_PREFIX_TAKEN", "the key was not made; try again")
    return _key(row)


async def page(database: postgres.Database, *, tenant_id: str, before: str, limit: int) -> list[domain.Key]:
    """Read up to `limit` of a tenant's keys, newest first, those before `before`."""
    return [_key(row) for row in await database.fetch(_PAGE, tenant_id, before, limit)]


async def revoke(database: postgres.Database, key_id: str) -> domain.Key:
    """End a key, once; NotFound without such a key."""
    row = await database.fetchrow(_REVOKE, key_id)
    if row is None:
        raise errors.NotFound("key", key_id)
    return _key(row)


async def verify(database: postgres.Database, text: str) -> tokens.Principal:
    """Tell whose key this is; Unauthenticated if it is unknown, expired or revoked."""
    row = await database.fetchrow(_VERIFY, api_key.prefix_of(text))
    if not api_key.matches(text, row["sha256"] if row else _NO_SHA256) or row is None:
        raise errors.Unauthenticated("the API key is unknown, expired or revoked")
    return tokens.Principal(tenant_id=row["tenant_id"], key_id=row["key_id"], scopes=frozenset(row["scopes"]))


async def ensure_operator(database: postgres.Database, text: str) -> None:
    """Accept an operator's key given by configuration; one that was revoked stays so. FailedPrecondition if its prefix is taken."""
    scopes = [domain.OPERATOR_SCOPE, "models.read"]
    prefix, sha256 = api_key.prefix_of(text), api_key.digest(text)
    await database.execute(
        _INSERT, ids.new("key"), domain.PLATFORM_TENANT_ID, "configured-operator", prefix, sha256, scopes, None
    )
    if await database.fetchval("SELECT sha256 FROM api_key WHERE prefix = $1", prefix) != sha256:
        raise errors.FailedPrecondition(
            "KEY_PREFIX_TAKEN", "DARKROOM_OPERATOR_KEY begins as another key does; make a new one"
        )


def _key(row: postgres.Row) -> domain.Key:
    return domain.Key(**{**dict(row), "scopes": tuple(row["scopes"])})
