"""What media_store keeps: rows in PostgreSQL, bytes in blob storage behind them (`blob_table`).

`servicer` comes in with a checked upload or an id; `domain.Media` goes out. A row is only ever seen with its bytes in place, until it
expires or is deleted, and another tenant's media is never seen at all. `loop` calls `expire` and `sweep`.
"""

from collections.abc import AsyncIterator, Callable, Sequence

from darkroom import blob_table, blobs, errors, ids, postgres
from darkroom.media_store import domain

PUT_TRIES = 10
EXPIRE_ROWS = 1000


class Store:
    """The media of all tenants."""

    def __init__(self, database: postgres.Database, bytes_: blobs.Blobs) -> None:
        self._database = database
        self._bytes = bytes_
        self._blobs = blob_table.BlobTable(database, bytes_, referenced_by="media")

    async def put(self, upload: domain.Upload, read: Callable[[], AsyncIterator[bytes]]) -> domain.Media:
        """Store the bytes, then the row; the piece already there if the same was put before, kept for the longer of both."""
        for _ in range(PUT_TRIES):
            blob_id = await self._blobs.keep(
                upload.blob_key, read(), size_bytes=upload.size_bytes, sha256=upload.sha256
            )
            if (media := await self._insert(upload, blob_id)) is not None:
                return media
        raise errors.Aborted("MEDIA_RACE", "the same bytes are being put and deleted; try again")

    async def get(self, tenant_id: str, media_id: str) -> domain.Media:
        """The tenant's piece; NotFound if it is not there, expired, deleted or another tenant's."""
        row = await self._database.fetchrow(
            "SELECT * FROM media WHERE tenant_id = $1 AND media_id = $2 AND deleted_at IS NULL"
            " AND (expires_at IS NULL OR expires_at > now())",
            tenant_id,
            media_id,
        )
        if row is None:
            raise errors.NotFound("media", media_id)
        return _media(row)

    async def read(
        self, media: domain.Media, *, offset_bytes: int = 0, size_bytes: int | None = None
    ) -> AsyncIterator[bytes]:
        """The piece's bytes from an offset, in order: `size_bytes` of them, or all the rest; NotFound if deleted meanwhile."""
        try:
            async for chunk in self._bytes.get(media.blob_key, offset=offset_bytes, size_bytes=size_bytes):
                yield chunk
        except errors.NotFound as error:
            raise errors.NotFound("media", media.media_id) from error

    async def url(self, media: domain.Media, *, expires_in_s: float) -> str | None:
        """A URL signed by the cloud's own store; None where bytes lie on a disk."""
        return await self._bytes.sign(media.blob_key, expires_in_s=expires_in_s)

    async def delete(self, tenant_id: str, media_id: str) -> None:
        """Forget the tenant's piece, and its bytes with the last piece made of them; again is no error."""
        rows = await self._forget("tenant_id = $1 AND media_id = $2", tenant_id, media_id)
        if not rows:
            raise errors.NotFound("media", media_id)
        await self._release(rows)

    async def expire(self) -> int:
        """Forget what has expired, at most EXPIRE_ROWS pieces; how many went."""
        rows = await self._forget(
            "deleted_at IS NULL AND expires_at <= now() ORDER BY expires_at LIMIT $1", EXPIRE_ROWS
        )
        await self._release(rows)
        return len(rows)

    async def sweep(self, *, age_s: float) -> int:
        """Delete the bytes of uploads that died, `age_s` after their start; how many went."""
        return await self._blobs.sweep(age_s=age_s)

    async def _forget(self, which: str, *args: object) -> Sequence[postgres.Row]:
        """Make rows forget their bytes; the blob_id that each had, None for those that were deleted before."""
        return await self._database.fetch(
            "UPDATE media SET deleted_at = coalesce(media.deleted_at, now()), blob_id = NULL"
            f" FROM (SELECT media_id, blob_id FROM media WHERE {which} FOR UPDATE) AS old"
            " WHERE media.media_id = old.media_id RETURNING old.blob_id",
            *args,
        )

    async def _release(self, rows: Sequence[postgres.Row]) -> None:
        for blob_id in {row["blob_id"] for row in rows} - {None}:
            await self._blobs.release(blob_id)

    async def _insert(self, upload: domain.Upload, blob_id: int) -> domain.Media | None:
        """Add the row, or make the one that is there last longer; None if the blob went meanwhile."""
        row = await self._database.fetchrow(
            "WITH kept AS (SELECT blob_id FROM blob WHERE blob_id = $8 FOR KEY SHARE)"
            " INSERT INTO media (media_id, tenant_id, generation_id, media_type, sha256, size_bytes, expires_at, blob_id)"
            " SELECT $1, $2, $3, $4, $5, $6, now() + $7::float8 * interval '1 second', blob_id FROM kept"
            " ON CONFLICT (tenant_id, generation_id, sha256) WHERE deleted_at IS NULL DO UPDATE SET expires_at ="
            " CASE WHEN media.expires_at IS NOT NULL AND excluded.expires_at IS NOT NULL"
            " THEN greatest(media.expires_at, excluded.expires_at) END RETURNING *",
            ids.new("med"),
            upload.tenant_id,
            upload.generation_id,
            upload.media_type,
            upload.sha256,
            upload.size_bytes,
            upload.retention_s,
            blob_id,
        )
        return None if row is None else _media(row)


def _media(row: postgres.Row) -> domain.Media:
    return domain.Media(
        media_id=row["media_id"],
        tenant_id=row["tenant_id"],
        generation_id=row["generation_id"],
        media_type=row["media_type"],
        sha256=row["sha256"],
        size_bytes=row["size_bytes"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
    )
